package compress_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/race"
)

func newParallel(t testing.TB, format string, maxSize int64, parallelism int) *compress.Transformer {
	s := newTransformer(t, format, maxSize)
	s.Parallelism = parallelism
	return s
}

// writeTo decompresses as io.Copy does.
func writeTo(t testing.TB, s *compress.Transformer, dst io.Writer, input io.Reader) (int64, error) {
	t.Helper()
	r, err := s.Reverse(t.Context(), input, nil)
	require.NoError(t, err)
	return r.(io.WriterTo).WriteTo(dst)
}

func TestParallel(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	eachFormat(t, func(t *testing.T, format string) {
		if format == compress.Gzip {
			t.Skip("gzip is on one core")
		}
		if format == compress.Zstd { // its goroutines are the library's
			race.SkipShort(t)
		}
		one := newParallel(t, format, 0, 1)
		sizes := []int{0, 3<<20 + 1, 9<<20 - 1}
		if race.Enabled {
			sizes = []int{0, 3<<20 + 1}
		}
		for _, size := range sizes {
			for kind, original := range map[string][]byte{"text": mixed(size), "noise": noise(size)} {
				alone := transform(t, one, bytes.NewReader(original))
				for _, parallelism := range []int{0, 5} {
					several := newParallel(t, format, 0, parallelism)
					stored := transform(t, several, iotest.HalfReader(bytes.NewReader(original)))
					if format != compress.S2 { // s2 has several streams in a row
						require.True(t, bytes.Equal(alone, stored))
					}
					got, err := reverse(t, one, bytes.NewReader(stored))
					require.NoError(t, err)
					require.True(t, bytes.Equal(original, got))
					var dst bytes.Buffer
					n, err := writeTo(t, several, &dst, iotest.DataErrReader(bytes.NewReader(stored)))
					require.NoError(t, err, "%d bytes of %s on %d", size, kind, parallelism)
					require.EqualValues(t, size, n)
					require.True(t, bytes.Equal(original, dst.Bytes()))
				}
			}
		}
	})
}

// TestParallelFailures makes streams fail in every way while several goroutines are at work. None
// of them may stay behind.
func TestParallelFailures(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	broken := errors.New("mine")
	original := mixed(7 << 20)
	eachFormat(t, func(t *testing.T, format string) {
		if race.Enabled && format == compress.Gzip {
			t.Skip("gzip is on one core")
		}
		if format == compress.Zstd { // its goroutines are the library's
			race.SkipShort(t)
		}
		s := newParallel(t, format, 0, 3)
		stored := transform(t, s, bytes.NewReader(original))

		t.Run("dropped half-way", func(t *testing.T) {
			r, err := s.Transform(t.Context(), bytes.NewReader(original), nil)
			require.NoError(t, err)
			_, err = io.ReadFull(r, make([]byte, len(stored)/2))
			require.NoError(t, err)
		})
		t.Run("source", func(t *testing.T) {
			r, err := s.Transform(t.Context(), io.MultiReader(bytes.NewReader(original[:5<<20]), iotest.ErrReader(broken)), nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, r)
			require.ErrorIs(t, err, broken)

			_, err = writeTo(t, s, io.Discard, io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), iotest.ErrReader(broken)))
			require.ErrorIs(t, err, broken)
			require.NotErrorIs(t, err, compress.ErrCorrupt)
		})
		t.Run("destination", func(t *testing.T) {
			dst := &failing{left: 3 << 20, err: broken}
			r, err := s.Reverse(t.Context(), bytes.NewReader(stored), nil)
			require.NoError(t, err)
			n, err := r.(io.WriterTo).WriteTo(dst)
			require.ErrorIs(t, err, broken)
			require.EqualValues(t, 3<<20, n)
		})
		t.Run("end of the destination", func(t *testing.T) {
			_, err := writeTo(t, s, &failing{left: 3 << 20, err: io.EOF}, bytes.NewReader(stored))
			require.ErrorIs(t, err, io.EOF)
		})
		t.Run("bound", func(t *testing.T) {
			bound := newParallel(t, format, 4<<20, 3)
			r, err := bound.Transform(t.Context(), bytes.NewReader(original), nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, r)
			require.ErrorIs(t, err, compress.ErrTooLarge)

			var dst bytes.Buffer
			n, err := writeTo(t, bound, &dst, bytes.NewReader(stored))
			require.ErrorIs(t, err, compress.ErrTooLarge)
			require.EqualValues(t, 4<<20, n)
			require.True(t, bytes.Equal(original[:4<<20], dst.Bytes()))
		})
		t.Run("cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r, err := s.Reverse(ctx, bytes.NewReader(stored), nil)
			require.NoError(t, err)
			_, err = r.(io.WriterTo).WriteTo(writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
			require.ErrorIs(t, err, context.Canceled)
		})
		t.Run("panics", func(t *testing.T) {
			require.PanicsWithValue(t, "mine", func() {
				_, _ = writeTo(t, s, writerFunc(func([]byte) (int, error) { panic("mine") }), bytes.NewReader(stored))
			})
			require.PanicsWithValue(t, "mine", func() {
				_, _ = writeTo(t, s, io.Discard, io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), readerFunc(func([]byte) (int, error) { panic("mine") })))
			})
		})
		t.Run("damage", func(t *testing.T) {
			for at := range slices.Values([]int{0, 5, len(stored) / 3, len(stored) - 40}) {
				damaged := bytes.Clone(stored)
				damaged[at] ^= 0x55
				_, wantErr := reverse(t, s, bytes.NewReader(damaged))
				var dst bytes.Buffer
				_, err := writeTo(t, s, &dst, bytes.NewReader(damaged))
				require.Equal(t, wantErr == nil, err == nil, "byte %d: read %v, written %v", at, wantErr, err)
				if err != nil {
					require.ErrorIs(t, err, compress.ErrCorrupt)
					if format == compress.S2 { // zstd and gzip have their checksums at the end
						require.True(t, bytes.HasPrefix(original, dst.Bytes()), "nothing behind the damage")
					}
				}
			}
			for _, size := range []int{1, len(stored) / 2, len(stored) - 1} {
				_, err := writeTo(t, s, io.Discard, bytes.NewReader(stored[:size]))
				require.ErrorIs(t, err, compress.ErrCorrupt, "cut to %d of %d", size, len(stored))
			}
		})
	})
}

// TestSourceThatFailsOnce reads a source that fails once and then returns io.EOF. It must not look
// complete, though s2 could not tell.
func TestSourceThatFailsOnce(t *testing.T) {
	broken := errors.New("mine")
	s := newParallel(t, compress.S2, 0, 3)
	stored := transform(t, s, bytes.NewReader(noise(1000)))
	_, err := writeTo(t, s, io.Discard, io.MultiReader(bytes.NewReader(stored), &failsOnce{broken}))
	require.ErrorIs(t, err, broken)
}

type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (n int, err error) {
	if err, f.err = f.err, io.EOF; err == nil {
		err = io.EOF
	}
	return 0, err
}

func TestNegativeParallelismIsOne(t *testing.T) {
	s := newParallel(t, compress.S2, 0, -1)
	original := mixed(4 << 20)
	got, err := reverse(t, s, bytes.NewReader(transform(t, s, bytes.NewReader(original))))
	require.NoError(t, err)
	require.True(t, bytes.Equal(original, got))
}

// TestParallelismBoundsGoroutines checks that a parallelism of 1 starts no goroutine.
func TestParallelismBoundsGoroutines(t *testing.T) {
	original := mixed(12 << 20)
	stored := transform(t, newParallel(t, compress.S2, 0, 1), bytes.NewReader(original))
	for parallelism, most := range map[int]int{1: 0, 3: 3} {
		s := newParallel(t, compress.S2, 0, parallelism)
		before := runtime.NumGoroutine()
		peak := 0
		_, err := writeTo(t, s, writerFunc(func(p []byte) (int, error) {
			peak = max(peak, runtime.NumGoroutine()-before)
			return len(p), nil
		}), bytes.NewReader(stored))
		require.NoError(t, err)
		require.LessOrEqual(t, peak, most+1)
		require.Equal(t, parallelism > 1, peak > 0)
	}
}

type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	n := min(len(p), f.left)
	if f.left -= n; n < len(p) {
		return n, f.err
	}
	return n, nil
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
