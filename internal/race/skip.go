package race

import "testing"

// SkipShort skips a test in a short run under the race detector. It is for tests of very many like
// cases, in the first of which the detector finds what it finds in all.
func SkipShort(t testing.TB) {
	t.Helper()
	if Enabled && testing.Short() {
		t.Skip("skipped: very many like cases, which take the race detector long")
	}
}
