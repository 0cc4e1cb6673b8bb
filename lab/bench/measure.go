package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	smallBelow  = 64 << 20 // bytes; smaller objects are repeated within a measurement
	peakSamples = 20       // of the heap, at least, to find a subject's peak
)

// smallLasts is how long a measurement of small objects takes at least, so that the clock and the
// scheduler hardly matter. Tests shorten it.
var smallLasts = 30 * time.Millisecond

var errChanged = errors.New("the plaintext came back changed")

// result is what a subject measured in one direction at one size.
type result struct {
	subject
	op              string
	size            int
	speed           float64   // MB/s
	ratio, low, top float64   // to the base: median and quartiles
	rounds          []float64 // MB/s of each
	allocs, bytes   float64   // for each object
	peak            uint64    // bytes
}

// workspace is the memory that subjects encrypt from and decrypt from, and the place that their
// output goes to.
type workspace struct {
	plaintext      []byte
	stored, opened []byte
	copies         bool // source and destination copy

	in  []byte // an operation's input: all of plaintext, or of stored
	out sink   // where its output goes

	// reader, source and destination are made once, so that measuring allocates nothing.
	reader      bytes.Reader
	source      io.Reader // of in
	destination io.Writer // out
}

// plainReader hides WriteTo, since the WriteTo of most files and connections saves no copy.
type plainReader struct{ io.Reader }

// sink counts what is written to it. It has no ReadFrom.
type sink struct {
	written int    // bytes, of all objects
	room    []byte // takes a copy of an object's bytes; nil copies nothing
	want    []byte // what must be written; nil allows anything
}

func (s *sink) Write(p []byte) (int, error) {
	if s.want != nil && !bytes.HasPrefix(s.want[min(s.written, len(s.want)):], p) {
		return 0, errChanged
	}
	if s.room != nil {
		s.room = append(s.room, p...)
	}
	s.written += len(p)
	return len(p), nil
}

func newWorkspace(size int, copies bool) *workspace {
	w := &workspace{plaintext: make([]byte, size), copies: copies}
	_, _ = rand.Read(w.plaintext) // never fails
	w.stored = make([]byte, 0, max(size+size/8, inPlaceAtOnce)+1<<17)
	w.source, w.destination = &w.reader, &w.out
	if copies {
		w.opened = make([]byte, 0, size)
		w.source = plainReader{&w.reader}
	}
	return w
}

// begin makes the workspace ready for another object.
func (w *workspace) begin() {
	w.reader.Reset(w.in)
	w.out.room = w.out.room[:0]
}

// operation encrypts or decrypts objects of the workspace's size, several times over. It returns
// how long that took, without the time that its preparation took.
type operation func(w *workspace, times int) (time.Duration, error)

// repeat returns an operation that calls once for each object, and needs no preparation.
func repeat(once func(w *workspace) error) operation {
	return func(w *workspace, times int) (time.Duration, error) {
		start := time.Now()
		for range times {
			w.begin()
			if err := once(w); err != nil {
				return 0, err
			}
		}
		return time.Since(start), nil
	}
}

// store encrypts an object, so that it can be decrypted.
func (w *workspace) store(s subject) (written int, err error) {
	w.in, w.out = w.plaintext, sink{room: w.stored[:0]}
	_, err = s.encrypt(w, 1)
	w.stored = w.out.room
	return w.out.written, err
}

// verify decrypts an object and compares all of it. It returns the size in bytes of the encrypted
// object.
func (w *workspace) verify(s subject) (encrypted int, err error) {
	if encrypted, err = w.store(s); err != nil {
		return 0, err
	}
	w.in, w.out = w.stored, sink{want: w.plaintext}
	_, err = s.decrypt(w, 1)
	if err == nil && w.out.written != len(w.plaintext) {
		err = errChanged
	}
	return encrypted, err
}

// measureAll measures the base and the subjects that -only names at all sizes. The base comes
// first.
func measureAll(o *options, subjects []subject, ops [2]string, stderr io.Writer) ([]result, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	var results []result
	for _, size := range o.sizes {
		fit := fitting(o, subjects, size, stderr)
		if !slices.ContainsFunc(fit, func(s subject) bool { return o.only.MatchString(s.name) }) {
			continue
		}
		measured, err := measureSize(fit, ops, newWorkspace(size, o.copies || o.endToEnd), o.repeats)
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

// fitting returns the base, then the subjects that -only names and that take objects of that size.
func fitting(o *options, subjects []subject, size int, stderr io.Writer) []subject {
	fit := subjects[:1:1]
	for _, s := range subjects[1:] {
		switch {
		case !o.only.MatchString(s.name):
		case s.most > 0 && size > s.most:
			if s.why != "" && s.parallelism == o.parallelism[0] {
				fmt.Fprintf(stderr, "bench: %s is left out at %s: %s\n", s.name, formatSize(size), s.why)
			}
		default:
			fit = append(fit, s)
		}
	}
	return fit
}

// series is what the rounds measured for a subject in one direction.
type series struct {
	do                    operation
	times                 int
	writes                int // bytes, for each object
	peak                  uint64
	speeds, allocs, bytes []float64
}

// measureSize runs all subjects in turn, in reverse order every second round. Ratios are to the
// first.
func measureSize(subjects []subject, ops [2]string, w *workspace, repeats int) ([]result, error) {
	all := make([][2]series, len(subjects))
	var order []int
	for i, s := range subjects {
		order = append(order, i)
		runtime.GOMAXPROCS(s.parallelism)
		encrypted, err := w.verify(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		all[i] = [2]series{{do: s.encrypt, writes: encrypted}, {do: s.decrypt, writes: len(w.plaintext)}}
		err = w.eachDirection(s, func(direction int) error { return all[i][direction].warmUp(w) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for range repeats {
		for _, i := range order {
			runtime.GOMAXPROCS(subjects[i].parallelism)
			err := w.eachDirection(subjects[i], func(direction int) error { return all[i][direction].measure(w) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", subjects[i].name, err)
			}
		}
		slices.Reverse(order)
	}
	var results []result
	for i, s := range subjects {
		for direction, op := range ops {
			m := &all[i][direction]
			ratios := quotients(m.speeds, all[0][direction].speeds)
			results = append(results, result{
				subject: s, op: op, size: len(w.plaintext),
				speed: quantile(m.speeds, 0.5), rounds: m.speeds,
				ratio: quantile(ratios, 0.5), low: quantile(ratios, 0.25), top: quantile(ratios, 0.75),
				allocs: quantile(m.allocs, 0.5), bytes: quantile(m.bytes, 0.5),
				peak: m.peak,
			})
		}
	}
	return results, nil
}

// eachDirection makes the workspace ready for encrypting and calls do, then the same for
// decrypting.
func (w *workspace) eachDirection(s subject, do func(direction int) error) error {
	copies := w.copies && !s.alone
	w.in, w.out = w.plaintext, sink{}
	if copies {
		w.out.room = w.stored[:0]
	}
	if err := do(0); err != nil {
		return err
	}
	if copies {
		w.stored = w.out.room
	} else if _, err := w.store(s); err != nil {
		return err
	}
	w.in, w.out = w.stored, sink{}
	if copies {
		w.out.room = w.opened[:0]
	}
	return do(1)
}

// warmUp finds how often to repeat the operation within a measurement, and how much memory it
// takes.
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

// measure measures one more round.
func (s *series) measure(w *workspace) error {
	runtime.GC() // so that the garbage of other subjects does not cost this one time
	before := memStats()
	elapsed, err := s.do(w, s.times)
	after := memStats()
	if err != nil {
		return err
	}
	if want := s.times * s.writes; w.out.written != want {
		return fmt.Errorf("wrote %d bytes instead of %d", w.out.written, want)
	}
	objects := float64(s.times)
	s.speeds = append(s.speeds, objects*float64(len(w.plaintext))/1e6/elapsed.Seconds())
	s.allocs = append(s.allocs, float64(after.Mallocs-before.Mallocs)/objects)
	s.bytes = append(s.bytes, float64(after.TotalAlloc-before.TotalAlloc)/objects)
	return nil
}

// peakMemory returns the most bytes that were reachable on the heap while do ran, beyond those that
// were reachable before. It repeats do until it has looked at the heap often enough not to miss
// what do holds.
func peakMemory(do func() error) (uint64, error) {
	// The collector needs a core of its own, since what is allocated while it marks counts as
	// reachable.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	runtime.GC() // with the one to come, it empties every sync.Pool
	before := reachable()
	stop, sampled, peak := make(chan struct{}), make(chan struct{}), make(chan uint64)
	go func() {
		most := before
		for range peakSamples {
			most = max(most, reachable())
		}
		close(sampled)
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
	for done := false; err == nil && !done; {
		err = do()
		select {
		case <-sampled:
			done = true
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

// quotients divides the values by those of the same round.
func quotients(values, by []float64) []float64 {
	q := slices.Clone(values)
	for i := range q {
		q[i] /= by[i]
	}
	return q
}

// quantile interpolates between the two nearest values, as the median of an even number does.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}
