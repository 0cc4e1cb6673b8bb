package race

import "testing"

// SkipShort skips a test in a short run under the race detector. It is for tests that take long and
// in which little happens at the same time, or the same very often: in others, the detector finds
// what it would find there.
func SkipShort(t testing.TB) {
	t.Helper()
	if Enabled && testing.Short() {
		t.Skip("skipped: it takes the race detector long, and runs without it")
	}
}
