package race

import "testing"

// SkipShort skips a test in a short run under the race detector. It is for long tests in which
// little runs at the same time, or the same code runs over and over. Other tests of that code are
// enough for the detector.
func SkipShort(t testing.TB) {
	t.Helper()
	if Enabled && testing.Short() {
		t.Skip("skipped: it takes the race detector long, and runs without it")
	}
}
