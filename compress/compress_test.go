package compress_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/race"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTransformer(t testing.TB, format string, maxSize int64) *compress.Transformer {
	t.Helper()
	s, err := compress.New(format, maxSize)
	require.NoError(t, err)
	return s
}

func transform(t testing.TB, s *compress.Transformer, input io.Reader) []byte {
	t.Helper()
	r, err := s.Transform(t.Context(), input, nil)
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	return out
}

func reverse(t testing.TB, s *compress.Transformer, input io.Reader) ([]byte, error) {
	t.Helper()
	r, err := s.Reverse(t.Context(), input, nil)
	require.NoError(t, err)
	return io.ReadAll(r)
}

// text compresses well; noise does not.
func text(n int) []byte { return bytes.Repeat([]byte("a stored object, "), n/17+1)[:n] }

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func eachFormat(t *testing.T, test func(t *testing.T, format string)) {
	for _, format := range compress.Formats() {
		t.Run(format, func(t *testing.T) { test(t, format) })
	}
}

func TestRoundTrip(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		for _, size := range []int{0, 1, 65535, 65536, 65537, 5 << 20} {
			for kind, original := range map[string][]byte{"text": text(size), "noise": noise(size)} {
				stored := transform(t, s, iotest.HalfReader(bytes.NewReader(original)))
				got, err := reverse(t, s, iotest.DataErrReader(bytes.NewReader(stored)))
				require.NoError(t, err, "%d bytes of %s", size, kind)
				require.True(t, bytes.Equal(original, got), "%d bytes of %s", size, kind)
				if kind == "text" && size > 1<<20 {
					require.Less(t, len(stored), size/10)
				}
			}
		}
	})
}

func TestRoundTripProperty(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		rapid.Check(t, func(r *rapid.T) {
			original := rapid.SliceOf(rapid.Byte()).Draw(r, "original")
			got, err := reverse(t, s, bytes.NewReader(transform(t, s, bytes.NewReader(original))))
			require.NoError(r, err)
			require.True(r, bytes.Equal(original, got))
		})
	})
}

// A source that fails must never look like a shorter complete one, whatever its error is.
func TestSourceError(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		for _, broken := range []error{errors.New("mine"), io.ErrUnexpectedEOF, os.ErrClosed} {
			r, err := s.Transform(t.Context(), io.MultiReader(bytes.NewReader(text(300_000)), iotest.ErrReader(broken)), nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, r)
			require.ErrorIs(t, err, broken)
			_, err = r.Read(make([]byte, 1))
			require.ErrorIs(t, err, broken, "the error stays")

			stored := transform(t, s, bytes.NewReader(noise(300_000)))
			_, err = reverse(t, s, io.MultiReader(bytes.NewReader(stored[:200_000]), iotest.ErrReader(broken)))
			require.ErrorIs(t, err, broken)
		}
	})
}

func TestCorrupt(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		stored := transform(t, s, bytes.NewReader(text(10_000)))
		cut := 0
		for n := range stored {
			got, err := reverse(t, s, bytes.NewReader(stored[:n]))
			if err == nil {
				// A format without an end mark may be cut between its blocks; the message below it
				// says where it ends.
				require.Less(t, len(got), 10_000)
				continue
			}
			require.ErrorIs(t, err, compress.ErrCorrupt)
			cut++
		}
		t.Logf("%d of %d cuts refused", cut, len(stored))
		_, err := reverse(t, s, strings.NewReader("no compressed stream at all"))
		require.ErrorIs(t, err, compress.ErrCorrupt)
		_, err = reverse(t, s, bytes.NewReader(append(bytes.Clone(stored), "trailing"...)))
		require.ErrorIs(t, err, compress.ErrCorrupt)
	})
}

func TestBound(t *testing.T) {
	race.SkipShort(t)
	eachFormat(t, func(t *testing.T, format string) {
		const bound = 100_000
		wide, narrow := newTransformer(t, format, 0), newTransformer(t, format, bound)
		for _, size := range []int{bound - 1, bound} {
			got, err := reverse(t, narrow, bytes.NewReader(transform(t, narrow, bytes.NewReader(text(size)))))
			require.NoError(t, err)
			require.Len(t, got, size)
		}
		r, err := narrow.Transform(t.Context(), bytes.NewReader(text(bound+1)), nil)
		require.NoError(t, err)
		_, err = io.ReadAll(r)
		require.ErrorIs(t, err, compress.ErrTooLarge)

		bomb := transform(t, wide, bytes.NewReader(make([]byte, 64<<20)))
		got, err := reverse(t, narrow, bytes.NewReader(bomb))
		require.ErrorIs(t, err, compress.ErrTooLarge)
		require.LessOrEqual(t, len(got), bound, "not a byte over the bound comes out")
	})
}

// A window over the bound is a limit and no damage: it has a sentinel, a number and an option, in
// the first frame of a stream and in a later one, whether the frame states a window or its size.
func TestZstdWindowBound(t *testing.T) {
	race.SkipShort(t)
	compressed := func(window int, single bool) []byte {
		var stored bytes.Buffer
		w, err := zstd.NewWriter(&stored, zstd.WithWindowSize(window), zstd.WithSingleSegment(single))
		require.NoError(t, err)
		if single {
			return w.EncodeAll(make([]byte, window), nil)
		}
		_, err = io.CopyN(w, zeros{}, int64(window)+1)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return stored.Bytes()
	}
	first := transform(t, newTransformer(t, compress.Zstd, 0), bytes.NewReader(text(100)))
	for _, single := range []bool{false, true} {
		wide := compressed(64<<20, single)
		for name, stored := range map[string][]byte{"first": wide, "later": append(bytes.Clone(first), wide...)} {
			_, err := reverse(t, newTransformer(t, compress.Zstd, 0), bytes.NewReader(stored))
			require.ErrorIs(t, err, compress.ErrWindow, name)
			require.NotErrorIs(t, err, compress.ErrCorrupt, name)
			require.ErrorContains(t, err, "67108864 bytes, at most 8388608", name)
			require.ErrorContains(t, err, "MaxWindow", name)
			allowing := newTransformer(t, compress.Zstd, 0)
			allowing.MaxWindow = 64 << 20
			got, err := reverse(t, allowing, bytes.NewReader(stored))
			require.NoError(t, err, name)
			require.GreaterOrEqual(t, len(got), 64<<20)
		}
	}
	// A block that is larger than its frame's window is damage. This one of 2,000 bytes is raw, in
	// a window of 1 KiB.
	_, err := reverse(t, newTransformer(t, compress.Zstd, 0), bytes.NewReader(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0x81, 0x3e, 0}, make([]byte, 2000)...)))
	require.ErrorIs(t, err, compress.ErrCorrupt)
	require.NotErrorIs(t, err, compress.ErrWindow)
}

// An empty stream is no stream of any format: what was cut to nothing is not what was empty.
func TestEmptyStreamIsNone(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		r, err := s.Reverse(t.Context(), bytes.NewReader(nil), nil)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.ErrorIs(t, err, compress.ErrCorrupt)
		require.Empty(t, got)
		r, err = s.Reverse(t.Context(), bytes.NewReader(nil), nil)
		require.NoError(t, err)
		_, err = r.(io.WriterTo).WriteTo(io.Discard)
		require.ErrorIs(t, err, compress.ErrCorrupt)

		empty := transform(t, s, bytes.NewReader(nil))
		require.NotEmpty(t, empty)
		got, err = reverse(t, s, bytes.NewReader(empty))
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCancel(t *testing.T) {
	eachFormat(t, func(t *testing.T, format string) {
		s := newTransformer(t, format, 0)
		ctx, cancel := context.WithCancel(t.Context())
		r, err := s.Transform(ctx, zeros{}, nil)
		require.NoError(t, err)
		_, err = r.Read(make([]byte, 1))
		require.NoError(t, err)
		stored := transform(t, s, io.LimitReader(zeros{}, 1<<20))
		d, err := s.Reverse(ctx, bytes.NewReader(stored), nil)
		require.NoError(t, err)
		_, err = d.Read(make([]byte, 1))
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, r)
		require.ErrorIs(t, err, context.Canceled)
		_, err = io.Copy(io.Discard, d)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestUnknownFormat(t *testing.T) {
	_, err := compress.New("lzma", 0)
	require.ErrorIs(t, err, compress.ErrUnknownFormat)
	require.ErrorContains(t, err, "lzma")
}

func FuzzReverse(f *testing.F) {
	for _, format := range compress.Formats() {
		f.Add(format, transform(f, newTransformer(f, format, 0), bytes.NewReader(text(1000))))
	}
	f.Fuzz(func(t *testing.T, format string, stored []byte) {
		s, err := compress.New(format, 1<<20)
		if err != nil {
			return
		}
		got, err := reverse(t, s, bytes.NewReader(stored))
		if err != nil && !errors.Is(err, compress.ErrCorrupt) && !errors.Is(err, compress.ErrTooLarge) && !errors.Is(err, compress.ErrWindow) {
			t.Fatalf("unexpected error %v", err)
		}
		if len(got) > 1<<20 {
			t.Fatalf("%d bytes over the bound", len(got))
		}
	})
}

func ExampleNew() {
	transformer, err := compress.New(compress.Zstd, 1<<30)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	compressed, err := transformer.Transform(ctx, strings.NewReader(strings.Repeat("to be stored ", 1000)), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	original, err := transformer.Reverse(ctx, compressed, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	n, err := io.Copy(io.Discard, original)
	fmt.Println(n, err)
	// Output: 13000 <nil>
}
