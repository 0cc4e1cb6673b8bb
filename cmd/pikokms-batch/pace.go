package main

import (
	"cmp"
	"fmt"
	"sync"
	"time"
)

const (
	// defaultPace is how many bytes a second are taken to be moved before any were measured. A
	// function with less than 1,769 MB of memory has less than one core (AWS Lambda Developer
	// Guide, "Configure Lambda function memory").
	defaultPace = 25e6

	// telling is the size in bytes of an object that tells how fast the function is. Of smaller
	// ones, the requests take most of the time.
	telling = 16 << 20
)

// pace is how fast a function reads objects and writes them back.
type pace struct {
	stated float64 // bytes a second; 0 if it is measured

	mu       sync.Mutex
	measured float64 // bytes a second; 0 if none was yet
}

// bytesPerSecond returns the pace, and where it is from.
func (p *pace) bytesPerSecond() (float64, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stated > 0:
		return p.stated, "as PIKOKMS_MB_PER_SECOND says"
	case p.measured > 0:
		return p.measured, "as measured"
	}
	return defaultPace, "as long as none is measured"
}

// learn takes note of how long an object, or a part of one, took. It gives each measure the weight
// of all before, so that one bad moment does not count for long.
func (p *pace) learn(bytes int64, took time.Duration) {
	if bytes < telling || took <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.measured = (cmp.Or(p.measured, defaultPace) + float64(bytes)/took.Seconds()) / 2
}

// check returns an error if an object is too large for the time that is left. The error holds
// errLater if it is not too large for all the time that an invocation has.
func (p *pace) check(size int64, left, whole time.Duration) error {
	pace, origin := p.bytesPerSecond()
	needed := float64(size) / pace
	if needed <= left.Seconds() {
		return nil
	}
	if needed <= whole.Seconds() {
		return fmt.Errorf("%w: the time that is left, %v, is too short for %d bytes", errLater, left.Round(time.Second), size)
	}
	return &tooLargeError{fmt.Sprintf("%.2f GB take %.0f s at %.1f MB/s (%s), and this function has %.0f s", float64(size)/1e9, needed, pace/1e6, origin, whole.Seconds())}
}

// tooLargeError means that an object is too large for an invocation.
type tooLargeError struct{ text string }

func (e *tooLargeError) Error() string { return e.text }
