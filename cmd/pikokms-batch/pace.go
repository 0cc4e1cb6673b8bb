package main

import (
	"fmt"
	"sync"
	"time"
)

const (
	// defaultPace is how many bytes a second are taken to be moved before any were measured. A
	// function with less than 1,769 MB of memory has less than one core (AWS Lambda Developer
	// Guide, "Configure Lambda function memory").
	defaultPace = 25e6

	// minMeasured is the size in bytes from which an object shows how fast the function is. For
	// smaller ones, the requests take most of the time.
	minMeasured = 16 << 20
)

// pace is how fast a function reads objects and writes them back when S3 is at its best. Slow
// minutes of S3 pass, so they make no object too large: it is tried, and if its time runs out,
// tried again.
type pace struct {
	stated float64 // bytes a second; 0 if it is measured

	mu       sync.Mutex
	measured float64 // bytes a second; 0 if none was above the default
}

// bytesPerSecond returns the pace, and its origin for an error.
func (p *pace) bytesPerSecond() (float64, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stated > 0:
		return p.stated, "as PIKOKMS_MB_PER_SECOND says"
	case p.measured > 0:
		return p.measured, "as measured"
	}
	return defaultPace, "unless PIKOKMS_MB_PER_SECOND says otherwise"
}

// learn records how long an object took. A measurement counts as much as all before it together, so
// that one good moment does not raise the pace of large objects too far.
func (p *pace) learn(bytes int64, took time.Duration) {
	if bytes < minMeasured || took <= 0 {
		return
	}
	current, _ := p.bytesPerSecond()
	p.mu.Lock()
	defer p.mu.Unlock()
	if learned := (current + float64(bytes)/took.Seconds()) / 2; learned > current {
		p.measured = learned
	}
}

// check returns an error if an object is too large for the time that is left. The error holds
// errTryAgain if it is not too large for all the time that an invocation has.
func (p *pace) check(size int64, left, total time.Duration) error {
	rate, origin := p.bytesPerSecond()
	needed := float64(size) / rate
	if needed <= left.Seconds() {
		return nil
	}
	if needed <= total.Seconds() {
		return fmt.Errorf("%w: the time that is left, %v, is too short for %d bytes", errTryAgain, left.Round(time.Second), size)
	}
	return &tooLargeError{fmt.Sprintf("%.2f GB take %.0f s at %.1f MB/s (%s), and this function has %.0f s", float64(size)/1e9, needed, rate/1e6, origin, total.Seconds())}
}

// tooLargeError means that an object is too large for an invocation.
type tooLargeError struct{ text string }

func (e *tooLargeError) Error() string { return e.text }
