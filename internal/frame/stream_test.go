package frame_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
)

// sources are readers that give the same bytes in different pieces.
var sources = map[string]func([]byte) io.Reader{
	"bytes.Reader":   func(b []byte) io.Reader { return bytes.NewReader(b) },
	"OneByteReader":  func(b []byte) io.Reader { return iotest.OneByteReader(bytes.NewReader(b)) },
	"HalfReader":     func(b []byte) io.Reader { return iotest.HalfReader(bytes.NewReader(b)) },
	"DataErrReader":  func(b []byte) io.Reader { return iotest.DataErrReader(bytes.NewReader(b)) },
	"empty reads":    func(b []byte) io.Reader { return &hesitant{r: bytes.NewReader(b)} },
	"data with EOF":  func(b []byte) io.Reader { return &lastWithError{b, io.EOF} },
	"single by EOF":  func(b []byte) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(b))) },
	"without extras": func(b []byte) io.Reader { return onlyReader{bytes.NewReader(b)} },
}

var sourceNames = slices.Sorted(maps.Keys(sources))

// hesitant returns neither bytes nor an error before each read that returns bytes.
type hesitant struct {
	r     io.Reader
	ready bool
}

func (h *hesitant) Read(p []byte) (int, error) {
	h.ready = !h.ready
	if h.ready {
		return 0, nil
	}
	return h.r.Read(p)
}

// lastWithError gives its last bytes together with its error.
type lastWithError struct {
	rest []byte
	err  error
}

func (r *lastWithError) Read(p []byte) (int, error) {
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 {
		return n, r.err
	}
	return n, nil
}

func TestEverySealerMakesTheSameBody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config(rapid.IntRange(1, 300).Draw(t, "frame length"))
		plaintext := pattern(rapid.IntRange(0, 4*c.Length+2).Draw(t, "plaintext size"))
		source := rapid.SampledFrom(sourceNames).Draw(t, "source")
		next := drawnSizes(t, 2*c.Length+frame.FinalOverhead)
		want := body(c, plaintext)
		for _, seal := range sealWays {
			got, err := seal.run(c, sources[source](plaintext), next)
			requireSame(t, got, err, want, seal.name)
		}
	})
}

func TestEveryOpenerOpensEveryBody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := config(rapid.IntRange(1, 300).Draw(t, "frame length"))
		plaintext := pattern(rapid.IntRange(0, 4*c.Length+2).Draw(t, "plaintext size"))
		source := rapid.SampledFrom(sourceNames).Draw(t, "source")
		next := drawnSizes(t, 2*c.Length+frame.FinalOverhead)
		for _, fullLast := range []bool{false, true} {
			sealed := bytes.Join(handmade(c, plaintext, fullLast), nil)
			for _, open := range openWays {
				got, err := open.run(c, sources[source](sealed), next)
				requireSame(t, got, err, plaintext, open.name)
			}
		}
	})
}

func TestEverySealerWithEveryOpener(t *testing.T) {
	for _, length := range []int{1, 16, 100} {
		c := config(length)
		for _, n := range []int{0, 1, length - 1, length, length + 1, 2*length - 1, 2 * length, 3*length + 1} {
			plaintext := pattern(n)
			for _, seal := range sealWays {
				sealed, err := seal.run(c, bytes.NewReader(plaintext), always(7))
				require.NoError(t, err)
				for _, open := range openWays {
					got, err := open.run(c, bytes.NewReader(sealed), always(11))
					requireSame(t, got, err, plaintext, fmt.Sprintf("%s to %s, %d bytes in frames of %d", seal.name, open.name, n, length))
				}
			}
		}
	}
}

// Plaintext of whole frames has two layouts: this package writes the one that ends with an empty
// frame, and reads both.
func TestBothLayoutsOfWholeFrames(t *testing.T) {
	c := config(16)
	for _, full := range []int{1, 2, 3} {
		plaintext := pattern(full * c.Length)
		for fullLast, count := range map[bool]int{false: full + 1, true: full} {
			frames := handmade(c, plaintext, fullLast)
			require.Len(t, frames, count)
			sealed := bytes.Join(frames, nil)
			size, err := frame.PlaintextSize(int64(len(sealed)), c.Length)
			require.NoError(t, err)
			require.EqualValues(t, len(plaintext), size)
			for _, open := range openWays {
				got, err := open.run(c, bytes.NewReader(sealed), always(5))
				requireSame(t, got, err, plaintext, open.name)
			}
		}
	}
}

// A source that fails has not ended. With a final frame, its plaintext would look complete.
func TestBrokenPlaintextNeverGetsAFinalFrame(t *testing.T) {
	c := config(16)
	whole := pattern(5 * c.Length)
	for _, cause := range []error{io.ErrUnexpectedEOF, io.ErrClosedPipe, errors.New("connection reset")} {
		for n := range len(whole) {
			for kind, src := range map[string]func() io.Reader{
				"after its data": func() io.Reader { return io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(cause)) },
				"with its data":  func() io.Reader { return &lastWithError{whole[:n], cause} },
			} {
				for _, seal := range sealWays {
					got, err := seal.run(c, src(), always(1+n%50))
					require.ErrorIs(t, err, cause, "%s, %d bytes, %s", seal.name, n, kind)
					require.True(t, bytes.HasPrefix(body(c, whole), got), "%s wrote what is no part of the whole body", seal.name)
					require.LessOrEqual(t, len(got), n/c.Length*(c.Length+frame.RegularOverhead))
				}
			}
		}
	}
}

func TestSealReaderStaysBroken(t *testing.T) {
	c := config(16)
	r := frame.NewSealReader(io.MultiReader(bytes.NewReader(pattern(40)), iotest.ErrReader(io.ErrUnexpectedEOF), bytes.NewReader(pattern(3))), c)
	_, err := readBy(r, always(9))
	require.Equal(t, io.ErrUnexpectedEOF, err)
	for range 3 {
		n, err := r.Read(make([]byte, 100))
		require.Zero(t, n)
		require.Equal(t, io.ErrUnexpectedEOF, err)
		written, err := r.WriteTo(io.Discard)
		require.Zero(t, written)
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
}

// `defer w.Close()` after a copy that failed is an everyday habit.
func TestSealWriterStaysBrokenAfterReadFrom(t *testing.T) {
	c := config(16)
	for n := range 4 * c.Length {
		for _, src := range []io.Reader{
			&lastWithError{pattern(n), io.ErrUnexpectedEOF},
			io.MultiReader(bytes.NewReader(pattern(n)), iotest.ErrReader(io.ErrUnexpectedEOF)),
		} {
			var out bytes.Buffer
			w := frame.NewSealWriter(&out, c)
			_, err := w.ReadFrom(src)
			require.Equal(t, io.ErrUnexpectedEOF, err)
			written := out.Len()
			_, err = w.Write([]byte("more"))
			require.Equal(t, io.ErrUnexpectedEOF, err)
			_, err = w.ReadFrom(bytes.NewReader(pattern(3)))
			require.Equal(t, io.ErrUnexpectedEOF, err)
			require.Equal(t, io.ErrUnexpectedEOF, w.Close())
			require.Equal(t, io.ErrUnexpectedEOF, w.Close())
			require.Equal(t, written, out.Len())
		}
	}
}

// A broken connection to the ciphertext is told apart from ciphertext that was cut.
func TestBrokenBodySource(t *testing.T) {
	c := config(16)
	plaintext := pattern(5 * c.Length)
	sealed := body(c, plaintext)
	for _, cause := range []error{io.ErrUnexpectedEOF, errors.New("connection reset")} {
		for n := range len(sealed) {
			for _, open := range openWays {
				got, err := open.run(c, io.MultiReader(bytes.NewReader(sealed[:n]), iotest.ErrReader(cause)), always(1+n%50))
				require.ErrorIs(t, err, cause)
				require.NotErrorIs(t, err, frame.ErrTruncated)
				require.True(t, bytes.HasPrefix(plaintext, got))
			}
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

type boastful struct{}

func (boastful) Read(p []byte) (int, error) { return len(p) + 1, nil }

type backward struct{}

func (backward) Read([]byte) (int, error) { return -1, nil }

func TestSourcesThatBreakTheReadersContract(t *testing.T) {
	c := config(16)
	for _, w := range []way{sealWays[0], sealWays[1], sealWays[4], openWays[0], openWays[1]} {
		t.Run(w.name, func(t *testing.T) {
			_, err := w.run(c, stuck{}, always(10))
			require.Equal(t, io.ErrNoProgress, err)
			for _, src := range []io.Reader{boastful{}, backward{}} {
				_, err = w.run(c, src, always(10))
				require.ErrorContains(t, err, "the source says")
			}
		})
	}
}

func TestEmptyReadsAndWrites(t *testing.T) {
	c := config(16)
	r := frame.NewSealReader(bytes.NewReader(nil), c)
	n, err := r.Read(nil)
	require.Zero(t, n)
	require.NoError(t, err)
	o := frame.NewOpenReader(bytes.NewReader(body(c, nil)), c)
	n, err = o.Read(nil)
	require.Zero(t, n)
	require.NoError(t, err)
	n, err = o.Read(make([]byte, 3))
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)

	w := frame.NewSealWriter(io.Discard, c)
	n, err = w.Write(nil)
	require.Zero(t, n)
	require.NoError(t, err)
}

// A source in memory is sealed and opened from where it stands, and left as it was.
func TestSourceInMemoryIsLeftAlone(t *testing.T) {
	race.SkipShort(t)
	c := config(1000)
	for _, size := range []int{0, 999, 5000, 3 << 20} {
		for _, parallelism := range []int{1, 3} {
			c.Parallelism = parallelism
			plaintext := pattern(size)
			sealed := body(c, plaintext)
			for ways, in := range map[*[]way][]byte{&sealWays: plaintext, &openWays: sealed} {
				for _, w := range *ways {
					src, before := bytes.NewReader(in), bytes.Clone(in)
					_, err := w.run(c, src, always(700_000))
					require.NoError(t, err)
					require.True(t, bytes.Equal(before, in), w.name)
					require.Zero(t, src.Len(), w.name)
				}
			}
		}
	}
}

// endsOnce is a destination that returns io.EOF once, as connections do.
type endsOnce struct{ left int }

func (e *endsOnce) Write(p []byte) (int, error) {
	if e.left--; e.left == 0 {
		return 0, io.EOF
	}
	return len(p), nil
}

func TestDestinationsEndIsNotTheSources(t *testing.T) {
	plaintext := pattern(4 << 20)
	for _, parallelism := range []int{1, 3} {
		c := config(64 << 10)
		c.Parallelism = parallelism
		sealed := body(c, plaintext)
		for _, left := range []int{3, 14} {
			seal := frame.NewSealWriter(&endsOnce{left}, c)
			_, err := seal.ReadFrom(onlyReader{bytes.NewReader(plaintext)})
			require.ErrorIs(t, err, io.EOF)
			require.ErrorIs(t, seal.Close(), io.EOF)

			src := onlyReader{bytes.NewReader(sealed)}
			open := frame.NewOpenWriter(&endsOnce{left}, c)
			_, err = open.ReadFrom(src)
			require.ErrorIs(t, err, io.EOF)
			_, err = open.ReadFrom(src)
			require.ErrorIs(t, err, io.EOF)
			require.ErrorIs(t, open.Close(), io.EOF)
		}
	}
}

// A caller may decrypt to where the message stands.
func TestReadToTheSourcesMemory(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		for _, size := range []int{300_000, 4 << 20} {
			c := config(64 << 10)
			c.Parallelism = parallelism
			plaintext := pattern(size)
			sealed := body(c, plaintext)
			_, err := io.ReadFull(frame.NewOpenReader(bytes.NewReader(sealed), c), sealed[:size])
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext, sealed[:size]))
		}
	}
}
