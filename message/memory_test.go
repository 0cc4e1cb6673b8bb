package message_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// endless is plaintext without an end.
type endless struct{}

var page = pattern(header.DefaultFrameLength)

func (endless) Read(p []byte) (int, error) { return copy(p, page), nil }

// sink is io.Discard without its ReadFrom, which would choose the way that a copy takes.
type sink struct{ n int64 }

func (s *sink) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

// TestConstantMemory encrypts and decrypts in one go: what is allocated is all that both
// directions take.
func TestConstantMemory(t *testing.T) {
	race.SkipShort(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, parallelism := range []int{1, 3} {
		t.Run(fmt.Sprintf("parallelism %d", parallelism), func(t *testing.T) {
			if race.Enabled && parallelism > 1 {
				t.Skip("the race detector makes a sync.Pool drop buffers at random")
			}
			testConstantMemory(t, parallelism)
		})
	}
}

func testConstantMemory(t *testing.T, parallelism int) {
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key, Parallelism: parallelism}
	d := decrypter(provider.Keyring(key))
	d.Parallelism = parallelism
	// A stream may or may not find buffers in the pool. They are a frame, and two sizes of batches,
	// of four frames and of eight.
	buffers := uint64(header.DefaultFrameLength + frame.FinalOverhead)
	if parallelism > 1 {
		buffers += uint64(2 * (parallelism + 4) * (4 + 8) * (header.DefaultFrameLength + frame.RegularOverhead))
	}
	ctx := context.Background()
	p := make([]byte, 1<<20)

	ways := map[string]func(n int64, out *sink) error{
		"Reader to Reader": func(n int64, out *sink) error {
			r, err := e.NewReader(ctx, io.LimitReader(endless{}, n), nil)
			if err != nil {
				return err
			}
			o, err := d.NewReader(ctx, r, nil)
			if err != nil {
				return err
			}
			for {
				n, err := o.Read(p)
				out.n += int64(n)
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
			}
		},
		"Reader to WriteTo": func(n int64, out *sink) error {
			r, err := e.NewReader(ctx, io.LimitReader(endless{}, n), nil)
			if err != nil {
				return err
			}
			o, err := d.NewReader(ctx, r, nil)
			if err != nil {
				return err
			}
			_, err = o.WriteTo(out)
			return err
		},
		"WriteTo to Write": func(n int64, out *sink) error {
			r, err := e.NewReader(ctx, io.LimitReader(endless{}, n), nil)
			if err != nil {
				return err
			}
			w := d.NewWriter(ctx, out, nil)
			if _, err = r.WriteTo(w); err != nil {
				return err
			}
			return w.Close()
		},
		"Write to Write": func(n int64, out *sink) error {
			w := d.NewWriter(ctx, out, nil)
			o, err := e.NewWriter(ctx, w, nil)
			if err != nil {
				return err
			}
			for ; n > 0; n -= int64(len(p)) {
				if _, err := o.Write(p[:min(n, int64(len(p)))]); err != nil {
					return err
				}
			}
			if err := o.Close(); err != nil {
				return err
			}
			return w.Close()
		},
		"ReadFrom to Write": func(n int64, out *sink) error {
			w := d.NewWriter(ctx, out, nil)
			o, err := e.NewWriter(ctx, w, nil)
			if err != nil {
				return err
			}
			if _, err := o.ReadFrom(io.LimitReader(endless{}, n)); err != nil {
				return err
			}
			if err := o.Close(); err != nil {
				return err
			}
			return w.Close()
		},
	}
	for name, run := range ways {
		t.Run(name, func(t *testing.T) {
			measure := func(n int64) (objects, size uint64) {
				var before, after runtime.MemStats
				var out sink
				runtime.GC()
				runtime.ReadMemStats(&before)
				err := run(n, &out)
				runtime.ReadMemStats(&after)
				require.NoError(t, err)
				require.Equal(t, n, out.n)
				return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
			}
			// The runtime allocates a little of its own at times, so the least of a few runs
			// counts.
			least := func(n int64, runs int) (objects, size uint64) {
				objects, size = measure(n)
				for range runs - 1 {
					o, s := measure(n)
					objects, size = min(objects, o), min(size, s)
				}
				t.Logf("%d MiB: %d objects, %d bytes", n>>20, objects, size)
				return objects, size
			}
			large := int64(1 << 28)
			if testing.Short() {
				large = 1 << 26
			}
			objects, size := least(2<<20, 10)
			largeObjects, largeSize := least(large, 2)
			require.Less(t, largeSize, 384<<10+2*buffers)
			// 256 MiB are 4,096 frames: an allocation by the frame, or by 30 frames, is over this.
			require.InDelta(t, objects, largeObjects, 128)
			require.InDelta(t, size, largeSize, float64(32<<10+2*buffers))
		})
	}
}

// TestThousandStreams has 500 streams that encrypt and 500 that decrypt at once, all of them
// half-way at one moment. By default they share the cores, so that their memory stays near that of
// streams on one core.
func TestThousandStreams(t *testing.T) {
	const pairs, size, most = 500, 3 << 20, 200 << 20
	for _, parallelism := range []int{1, 0} {
		t.Run(fmt.Sprintf("parallelism %d", parallelism), func(t *testing.T) {
			key := newKey(t, 1, "")
			e := &message.Encrypter{Keyring: key, Parallelism: parallelism}
			d := decrypter(provider.Keyring(key))
			d.Parallelism = parallelism

			inUse := func() uint64 {
				sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
				metrics.Read(sample)
				return sample[0].Value.Uint64()
			}
			runtime.GC()
			runtime.GC() // the second one empties every sync.Pool
			before, peak := inUse(), uint64(0)
			var halfway, streams sync.WaitGroup
			halfway.Add(pairs)
			failures := make(chan error, pairs)
			for range pairs {
				streams.Go(func() {
					failures <- func() error {
						arrived := sync.OnceFunc(halfway.Done)
						defer arrived()
						r, err := e.NewReader(t.Context(), io.LimitReader(endless{}, size), nil)
						if err != nil {
							return err
						}
						w := d.NewWriter(t.Context(), &waiting{after: size / 2, wait: func() { arrived(); halfway.Wait() }}, nil)
						if _, err := r.WriteTo(w); err != nil {
							return err
						}
						return w.Close()
					}()
				})
			}
			done := make(chan struct{})
			go func() { streams.Wait(); close(done) }()
			for running := true; running; {
				select {
				case <-done:
					running = false
				case <-time.After(time.Millisecond):
					peak = max(peak, inUse())
				}
			}
			for range pairs {
				require.NoError(t, <-failures)
			}
			t.Logf("%d MiB at most", (peak-before)>>20)
			require.Less(t, peak-before, uint64(most))
		})
	}
}

// waiting is a destination that waits once it has had enough.
type waiting struct {
	after, n int
	wait     func()
}

func (w *waiting) Write(p []byte) (int, error) {
	if w.n < w.after && w.n+len(p) >= w.after {
		w.wait()
	}
	w.n += len(p)
	return len(p), nil
}
