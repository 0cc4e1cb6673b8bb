//go:build race

package message_test

// raceDetector tells that memory says nothing of pooled buffers: under the race detector a
// sync.Pool drops at random what it is given.
const raceDetector = true
