//go:build !race

// Package race reports whether the race detector is on. Tests ask because they are several times as
// slow under it, so that some of them try less, and because a sync.Pool then drops values at
// random.
package race

// Enabled reports whether the program is built with the race detector.
const Enabled = false
