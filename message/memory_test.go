package message_test

import (
	"context"
	"io"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
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

// TestConstantMemory encrypts and decrypts in one go: what is allocated is all that both directions take.
func TestConstantMemory(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	key := newKey(t, 1, "")
	e := &message.Encrypter{Keyring: key}
	d := decrypter(provider.Keyring(key))
	ctx := context.Background()
	p := make([]byte, 100_000)

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
			// The runtime allocates a little of its own at times, which only adds: the least of a few runs is what counts.
			least := func(n int64, runs int) (objects, size uint64) {
				objects, size = measure(n)
				for range runs - 1 {
					o, s := measure(n)
					objects, size = min(objects, o), min(size, s)
				}
				t.Logf("%d MiB: %d objects, %d bytes", n>>20, objects, size)
				return objects, size
			}
			large := int64(1 << 30)
			if testing.Short() {
				large = 1 << 26
			}
			objects, size := least(1<<20, 10)
			largeObjects, largeSize := least(large, 2)
			require.Less(t, largeSize, uint64(512<<10))
			// 1 GiB has 16,384 frames: an allocation by the frame, or by a hundred frames, is far over this.
			require.InDelta(t, objects, largeObjects, 64)
			// A long stream may find the pool of buffers empty, as each collection leaves it: one buffer a side.
			require.InDelta(t, size, largeSize, 32<<10+2*(header.DefaultFrameLength+frame.FinalOverhead))
		})
	}
}
