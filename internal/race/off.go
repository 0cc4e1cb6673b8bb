//go:build !race

// Package race tells tests whether the race detector is on. It makes them several times as slow, so
// that some try less under it, and sync.Pool drops at random what it is given.
package race

// Enabled reports whether the program is built with the race detector.
const Enabled = false
