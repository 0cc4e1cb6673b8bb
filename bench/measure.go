package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	smallBelow  = 4 << 20 // bytes; smaller objects are repeated within a measurement
	peakSamples = 20      // of the heap, at least, to find a subject's peak
)

// smallLasts is what a measurement of small objects lasts at least, so that the clock and the scheduler don't count. Tests
// have less patience.
var smallLasts = 30 * time.Millisecond

// result is what a subject measured in one direction at one size.
type result struct {
	subject
	op              string
	size            int
	speed           float64 // MB/s
	ratio, low, top float64 // to the base: median and quartiles
	allocs, bytes   float64 // for each object
	peak            uint64  // bytes
}

// workspace is the memory that subjects encrypt from and decrypt to.
type workspace struct {
	plaintext      []byte
	stored, opened bytes.Buffer

	// These are interfaces once and for all, so that measuring allocates nothing.
	plaintextReader, storedReader bytes.Reader
	source, sealed                io.Reader
	destination, result           io.Writer
}

// plainReader and plainWriter have no WriteTo and no ReadFrom: a file or a connection has none that helps either.
type plainReader struct{ io.Reader }
type plainWriter struct{ io.Writer }

func newWorkspace(size int) *workspace {
	w := &workspace{plaintext: make([]byte, size)}
	_, _ = rand.Read(w.plaintext) // never fails
	w.stored.Grow(max(size+size/8, inPlaceAtOnce) + 1<<17)
	w.opened.Grow(size + 1<<16)
	w.source, w.sealed = plainReader{&w.plaintextReader}, plainReader{&w.storedReader}
	w.destination, w.result = plainWriter{&w.stored}, plainWriter{&w.opened}
	return w
}

// An operation does the same to objects of the workspace's size, times over, and says how long that took without whatever it
// had to prepare.
type operation func(w *workspace, times int) (time.Duration, error)

// repeat makes an operation of one that needs no preparation.
func repeat(once func(w *workspace) error) operation {
	return func(w *workspace, times int) (time.Duration, error) {
		start := time.Now()
		for range times {
			if err := once(w); err != nil {
				return 0, err
			}
		}
		return time.Since(start), nil
	}
}

// measureAll runs the subjects that -only names, and the base, which comes first, at all sizes.
func measureAll(o *options, subjects []subject, ops [2]string, stderr io.Writer) ([]result, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	var results []result
	for _, size := range o.sizes {
		fit := fitting(o, subjects, size, stderr)
		if !slices.ContainsFunc(fit, func(s subject) bool { return o.only.MatchString(s.name) }) {
			continue
		}
		measured, err := measureSize(fit, ops, size, o.repeats)
		if err != nil {
			return nil, err
		}
		for _, r := range measured {
			if o.only.MatchString(r.name) {
				results = append(results, r)
			}
		}
	}
	return results, nil
}

// fitting returns the base, which comes first, and the subjects that -only names and that do objects of that size.
func fitting(o *options, subjects []subject, size int, stderr io.Writer) []subject {
	fit := subjects[:1:1]
	for _, s := range subjects[1:] {
		switch {
		case !o.only.MatchString(s.name):
		case s.most > 0 && size > s.most:
			if s.why != "" {
				fmt.Fprintf(stderr, "bench: %s is left out at %s: %s\n", s.name, formatSize(size), s.why)
			}
		default:
			fit = append(fit, s)
		}
	}
	return fit
}

// series is what the rounds measured of a subject in one direction.
type series struct {
	do                            operation
	times                         int
	peak                          uint64
	speeds, ratios, allocs, bytes []float64
}

// measureSize runs all subjects in turn. Ratios are to the first.
func measureSize(subjects []subject, ops [2]string, size, repeats int) ([]result, error) {
	w := newWorkspace(size)
	all := make([][2]series, len(subjects))
	for i, s := range subjects {
		runtime.GOMAXPROCS(s.parallelism)
		all[i][0].do, all[i][1].do = s.encrypt, s.decrypt
		w.opened.Reset()
		for direction := range ops {
			if err := all[i][direction].warmUp(w); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", s.name, ops[direction], err)
			}
		}
		if !bytes.Equal(w.opened.Bytes(), w.plaintext) {
			return nil, fmt.Errorf("%s: the plaintext came back changed", s.name)
		}
	}
	for range repeats {
		for i, s := range subjects {
			runtime.GOMAXPROCS(s.parallelism)
			w.opened.Reset()
			for direction := range ops {
				if err := all[i][direction].measure(w, &all[0][direction]); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", s.name, ops[direction], err)
				}
			}
			if !bytes.Equal(w.opened.Bytes(), w.plaintext) {
				return nil, fmt.Errorf("%s: the plaintext came back changed", s.name)
			}
		}
	}
	var results []result
	for i, s := range subjects {
		for direction, op := range ops {
			m := &all[i][direction]
			results = append(results, result{
				subject: s, op: op, size: size,
				speed: quantile(m.speeds, 0.5),
				ratio: quantile(m.ratios, 0.5), low: quantile(m.ratios, 0.25), top: quantile(m.ratios, 0.75),
				allocs: quantile(m.allocs, 0.5), bytes: quantile(m.bytes, 0.5),
				peak: m.peak,
			})
		}
	}
	return results, nil
}

// warmUp finds how often the operation must be repeated within a measurement, and what memory it takes.
func (s *series) warmUp(w *workspace) error {
	s.times = 1
	for small := len(w.plaintext) < smallBelow; ; {
		elapsed, err := s.do(w, s.times)
		if err != nil {
			return err
		}
		if !small || elapsed >= smallLasts {
			break
		}
		s.times *= 1 + int(min(smallLasts/max(elapsed, 1), 100))
	}
	once := func() error {
		_, err := s.do(w, 1)
		return err
	}
	peak, err := peakMemory(once)
	if err != nil {
		return err
	}
	runtime.GC()
	runtime.GC() // the second one empties every sync.Pool
	before := memStats()
	err = once()
	s.peak = min(peak, memStats().TotalAlloc-before.TotalAlloc)
	return err
}

func memStats() (m runtime.MemStats) {
	runtime.ReadMemStats(&m)
	return m
}

// measure adds a round. The base has measured this round already.
func (s *series) measure(w *workspace, base *series) error {
	runtime.GC() // what others left behind is not this one's to collect
	before := memStats()
	elapsed, err := s.do(w, s.times)
	after := memStats()
	if err != nil {
		return err
	}
	objects := float64(s.times)
	s.speeds = append(s.speeds, objects*float64(len(w.plaintext))/1e6/elapsed.Seconds())
	s.ratios = append(s.ratios, s.speeds[len(s.speeds)-1]/base.speeds[len(s.speeds)-1])
	s.allocs = append(s.allocs, float64(after.Mallocs-before.Mallocs)/objects)
	s.bytes = append(s.bytes, float64(after.TotalAlloc-before.TotalAlloc)/objects)
	return nil
}

// peakMemory returns the most bytes that were reachable on the heap while do ran, beyond what was before. It repeats do until
// the heap was looked at often enough not to miss what do holds.
func peakMemory(do func() error) (uint64, error) {
	// The collector needs a core of its own: what is allocated while it marks counts as reachable.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	before := reachable()
	stop, looked, peak := make(chan struct{}), make(chan struct{}), make(chan uint64)
	go func() {
		most := before
		for range peakSamples {
			most = max(most, reachable())
		}
		close(looked)
		for {
			select {
			case <-stop:
				peak <- most
				return
			default:
				most = max(most, reachable())
			}
		}
	}()
	var err error
	for enough := false; err == nil && !enough; {
		err = do()
		select {
		case <-looked:
			enough = true
		default:
		}
	}
	close(stop)
	return <-peak - before, err
}

// reachable returns the bytes of the heap that a garbage collection finds in use.
func reachable() uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// quantile interpolates between the values next to it, as a median of an even number does.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}
