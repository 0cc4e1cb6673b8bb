package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
)

var errLost = errors.New("connection lost")

// TestConnectionLostAnywhere loses the connection at each byte of short streams, and near the ends
// of frames of long ones, which use several cores. The output must never look complete. pushWays
// call Close by defer, as users do.
func TestConnectionLostAnywhere(t *testing.T) {
	cases := 0
	for _, test := range []struct{ length, size, parallelism int }{{16, 3*16 + 5, 1}, {16, 3 * 16, 1}, {10_000, 2_000_000, 3}} {
		if test.parallelism > 1 && testing.Short() {
			continue
		}
		every := 50 // frames
		if race.Enabled {
			every = 200
		}
		c := beside(config(test.length), test.parallelism)
		plaintext := pattern(test.size)
		sealed := body(c, plaintext)
		for _, direction := range []struct {
			ways    []way
			in, out []byte
			unit    int
		}{
			{append(sealWays[:len(sealWays):len(sealWays)], pushWays[0]), plaintext, sealed, test.length},
			{append(openWays[:len(openWays):len(openWays)], pushWays[1]), sealed, plaintext, test.length + frame.RegularOverhead},
		} {
			for cut := 0; cut <= len(direction.in); cut++ {
				if within := cut % direction.unit; test.parallelism > 1 && (within > 1 || cut/direction.unit%every > 0) && cut < len(direction.in)-1 {
					continue
				}
				for name, ending := range adversary.Losses {
					if test.parallelism > 1 && ending.Err != adversary.ErrLost {
						continue
					}
					for _, way := range direction.ways {
						source := &adversary.Source{Rest: direction.in[:cut], Ending: ending}
						got, err := way.run(c, source, always(1+cut%50_000))
						require.ErrorIs(t, err, ending.Err, "%s, %d of %d bytes, error %s", way.name, cut, len(direction.in), name)
						require.NotErrorIs(t, err, frame.ErrTruncated)
						require.True(t, bytes.HasPrefix(direction.out, got), way.name)
						if len(sealed) == len(direction.out) {
							require.Less(t, len(got), len(sealed), "%s: a body that is whole", way.name)
						}
						require.Zero(t, source.Asked, "%s asks again a source that has failed", way.name)
						cases++
					}
				}
			}
		}
	}
	t.Logf("%d connections lost", cases)
}

// pushWays are ways in which users often write.
var pushWays = []way{
	{"SealWriter with a deferred Close", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		err := func() error {
			w := frame.NewSealWriter(&out, c)
			defer w.Close()
			_, err := io.Copy(w, src)
			return err
		}()
		return out.Bytes(), err
	}},
	{"OpenWriter with a deferred Close", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		err := func() error {
			w := frame.NewOpenWriter(&out, c)
			defer w.Close()
			_, err := io.Copy(w, src)
			return err
		}()
		return out.Bytes(), err
	}},
}

// A source panics. The deferred Close of the writer that it was copied to must not complete the
// body.
func TestPanicIsNoEnd(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		c := beside(config(1000), parallelism)
		plaintext := pattern(3 * mebibyte)
		panics := func(after int) io.Reader {
			return io.MultiReader(bytes.NewReader(plaintext[:after]), readerFunc(func([]byte) (int, error) { panic("source") }))
		}
		for _, after := range []int{0, 10, 1000, 2*mebibyte + 5} {
			var out bytes.Buffer
			w := frame.NewSealWriter(&out, c)
			require.PanicsWithValue(t, "source", func() {
				defer w.Close()
				_, _ = w.ReadFrom(panics(after))
			})
			require.ErrorIs(t, w.Close(), frame.ErrAborted)
			_, err := w.Write([]byte("more"))
			require.ErrorIs(t, err, frame.ErrAborted)
			_, err = io.ReadAll(frame.NewOpenReader(&out, c))
			require.ErrorIs(t, err, frame.ErrTruncated)
		}
		for _, write := range []func(w *frame.SealWriter){
			func(w *frame.SealWriter) { _, _ = w.Write(plaintext) },
			func(w *frame.SealWriter) { _, _ = w.ReadFrom(bytes.NewReader(plaintext)) },
			func(w *frame.SealWriter) { _, _ = w.Write(plaintext[:10]); _ = w.Close() },
		} {
			panicked := false
			w := frame.NewSealWriter(writerFunc(func(p []byte) (int, error) {
				require.False(t, panicked, "written to after a panic")
				panicked = true
				panic("destination")
			}), c)
			require.PanicsWithValue(t, "destination", func() {
				defer w.Close()
				write(w)
			})
			require.ErrorIs(t, w.Close(), frame.ErrAborted)
		}
	}
}

// A destination panics while plaintext is written to it. A caller that recovers and reads on must
// not get bytes after a gap.
func TestReadingOnAfterAPanic(t *testing.T) {
	for _, parallelism := range []int{1, 3} {
		c := beside(config(1000), parallelism)
		plaintext := pattern(3 * mebibyte)
		for name, r := range map[string]interface {
			io.Reader
			io.WriterTo
		}{
			"sealing": frame.NewSealReader(bytes.NewReader(plaintext), c),
			"opening": frame.NewOpenReader(bytes.NewReader(body(c, plaintext)), c),
		} {
			n := 0
			require.PanicsWithValue(t, "destination", func() {
				_, _ = r.WriteTo(writerFunc(func(p []byte) (int, error) {
					if n += len(p); n > 2*mebibyte {
						panic("destination")
					}
					return len(p), nil
				}))
			})
			rest, err := io.ReadAll(r)
			require.ErrorIs(t, err, frame.ErrAborted, name)
			require.Empty(t, rest, name)
		}
	}
}

func TestAbort(t *testing.T) {
	c := config(16)
	for size := range 50 {
		var out bytes.Buffer
		w := frame.NewSealWriter(&out, c)
		_, err := w.Write(pattern(size))
		require.NoError(t, err)
		written := out.Len()
		w.Abort()
		w.Abort()
		require.Equal(t, frame.ErrAborted, w.Close())
		require.Equal(t, frame.ErrAborted, w.Close())
		_, err = w.Write([]byte("more"))
		require.Equal(t, frame.ErrAborted, err)
		_, err = w.ReadFrom(bytes.NewReader(pattern(3)))
		require.Equal(t, frame.ErrAborted, err)
		require.Equal(t, written, out.Len())
		_, err = io.ReadAll(frame.NewOpenReader(&out, c))
		require.ErrorIs(t, err, frame.ErrTruncated)
	}
	t.Run("after Close it does nothing", func(t *testing.T) {
		var out bytes.Buffer
		w := frame.NewSealWriter(&out, c)
		_, err := w.Write(pattern(40))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		w.Abort()
		require.NoError(t, w.Close())
		require.Equal(t, body(c, pattern(40)), out.Bytes())
		_, err = w.Write([]byte("more"))
		require.Equal(t, frame.ErrStreamClosed, err)
	})
	t.Run("after a failure that stays", func(t *testing.T) {
		w := frame.NewSealWriter(&limited{err: errFull}, c)
		_, err := w.Write(pattern(40))
		require.Equal(t, errFull, err)
		w.Abort()
		require.Equal(t, errFull, w.Close())
	})
}

// TestSecondCloseReturnsTheFirstOnesResult has every result that a Close can have.
func TestSecondCloseReturnsTheFirstOnesResult(t *testing.T) {
	c := config(16)
	sealed := body(c, pattern(40))
	footed := c
	footed.Footer = func([]byte) error { return errLost }
	closers := map[string]struct {
		w    io.WriteCloser
		in   []byte
		want error
	}{
		"sealed":                   {frame.NewSealWriter(io.Discard, c), pattern(40), nil},
		"destination is full":      {frame.NewSealWriter(&limited{room: 40, err: errFull}, c), pattern(20), errFull},
		"destination writes short": {frame.NewSealWriter(&limited{room: 40}, c), pattern(20), io.ErrShortWrite},
		"opened":                   {frame.NewOpenWriter(io.Discard, c), sealed, nil},
		"cut short":                {frame.NewOpenWriter(io.Discard, c), sealed[:len(sealed)-1], frame.ErrTruncated},
		"changed":                  {frame.NewOpenWriter(io.Discard, c), append(bytes.Clone(sealed[:len(sealed)-1]), 1), frame.ErrAuthentication},
		"plaintext has no room":    {frame.NewOpenWriter(&limited{room: 35, err: errFull}, c), sealed, errFull},
		"footer is bad":            {frame.NewOpenWriter(io.Discard, footed), sealed, errLost},
	}
	for name, test := range closers {
		t.Run(name, func(t *testing.T) {
			_, _ = test.w.Write(test.in) // Close returns its failure
			first := test.w.Close()
			require.ErrorIs(t, first, test.want)
			for range 3 {
				require.Equal(t, first, test.w.Close())
			}
			_, err := test.w.Write([]byte("more"))
			if first == nil {
				first = frame.ErrStreamClosed
			}
			require.Equal(t, first, err)
		})
	}
	t.Logf("%d results", len(closers))
}

type lyingAt struct {
	io.ReaderAt
	by int
}

func (l lyingAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.ReaderAt.ReadAt(p, off)
	return n + l.by, err
}

// A storage that says it read more than it was asked for, or less without an error, is an error.
func TestStorageThatBreaksTheReaderAtsContract(t *testing.T) {
	c := config(16)
	sealed := body(c, pattern(40))
	for by, text := range map[int]string{1: "the source says it read", -1: "without an error"} {
		_, err := frame.NewReaderAt(lyingAt{bytes.NewReader(sealed), by}, 0, int64(len(sealed)), c)
		require.ErrorContains(t, err, text)
		require.NotErrorIs(t, err, frame.ErrTruncated)
	}
}
