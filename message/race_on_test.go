//go:build race

package message_test

// raceDetector: under it a sync.Pool drops at random what it is given, so that memory says nothing of pooled buffers.
const raceDetector = true
