package frame_test

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/race"
)

const mebibyte = 1 << 20

// alone and beside are the same configuration on one core and on several.
func alone(length int) frame.Config {
	c := config(length)
	c.Parallelism = 1
	return c
}

func beside(c frame.Config, parallelism int) frame.Config {
	c.Parallelism = parallelism
	return c
}

// several returns readers of b: in one piece, or in pieces as a connection would.
var several = map[string]func(b []byte) io.Reader{
	"at once":          func(b []byte) io.Reader { return onlyReader{bytes.NewReader(b)} },
	"in halves":        func(b []byte) io.Reader { return iotest.HalfReader(bytes.NewReader(b)) },
	"end with data":    func(b []byte) io.Reader { return iotest.DataErrReader(bytes.NewReader(b)) },
	"in pieces of 1 k": func(b []byte) io.Reader { return &inPieces{bytes.NewReader(b), 1000} },
}

type inPieces struct {
	r    io.Reader
	most int
}

func (r *inPieces) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), r.most)]) }

func TestParallelStreamsAreTheSame(t *testing.T) {
	for _, length := range []int{1000, 64 << 10, 300_000} {
		c := alone(length)
		whole := (mebibyte + length - 1) / length * length
		for _, size := range []int{mebibyte - 1, whole + 1, 2 * whole} {
			if (race.Enabled || testing.Short()) && (length != 64<<10 || size == 2*whole) && size != whole+1 {
				continue
			}
			if race.Enabled && length == 1000 { // it takes the race detector a minute
				continue
			}
			t.Run(fmt.Sprintf("%d bytes in frames of %d", size, length), func(t *testing.T) {
				plaintext := pattern(size)
				sealed := body(c, plaintext)
				for name, source := range several {
					piece := map[string]int{"at once": 5 * mebibyte, "in halves": 700_000}[name]
					if piece == 0 {
						piece = 100_000
					}
					for _, way := range sealWays {
						got, err := way.run(beside(c, 2), source(plaintext), always(piece))
						requireSame(t, got, err, sealed, way.name+" "+name)
					}
					for _, way := range openWays {
						got, err := way.run(beside(c, 3), source(sealed), always(piece))
						requireSame(t, got, err, plaintext, way.name+" "+name)
					}
				}
			})
		}
	}
}

// TestParallelStreamsRefuseWhatOthersRefuse changes, cuts and reorders bodies. On one core and on
// several, each stream returns the same error, and the same plaintext before it.
func TestParallelStreamsRefuseWhatOthersRefuse(t *testing.T) {
	const length = 10_000
	c := alone(length)
	plaintext := pattern(3*mebibyte/2 + 1234)
	sealed := body(c, plaintext)
	const size = length + frame.RegularOverhead

	damage := map[string]func(t *rapid.T, b []byte) []byte{
		"bit": func(t *rapid.T, b []byte) []byte {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			return b
		},
		"cut": func(t *rapid.T, b []byte) []byte { return b[:rapid.IntRange(0, len(b)-1).Draw(t, "length")] },
		"cut between frames": func(t *rapid.T, b []byte) []byte {
			return b[:size*rapid.IntRange(0, len(b)/size).Draw(t, "frames")]
		},
		"appended": func(t *rapid.T, b []byte) []byte {
			return append(b, make([]byte, rapid.IntRange(1, 3*size).Draw(t, "bytes"))...)
		},
		"swapped": func(t *rapid.T, b []byte) []byte {
			i := rapid.IntRange(0, len(b)/size-2).Draw(t, "frame")
			return append(append(append(bytes.Clone(b[:i*size]), b[(i+1)*size:(i+2)*size]...), b[i*size:(i+1)*size]...), b[(i+2)*size:]...)
		},
		"dropped": func(t *rapid.T, b []byte) []byte {
			i := rapid.IntRange(0, len(b)/size-1).Draw(t, "frame")
			return append(bytes.Clone(b[:i*size]), b[(i+1)*size:]...)
		},
	}
	sentinels := []error{frame.ErrAuthentication, frame.ErrSequence, frame.ErrTruncated, frame.ErrTrailingData, frame.ErrMalformed}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				bad := change(t, bytes.Clone(sealed))
				piece := rapid.SampledFrom([]int{100_000, 700_000, 5 * mebibyte}).Draw(t, "piece")
				parallelism := rapid.IntRange(2, 4).Draw(t, "parallelism")
				way := rapid.SampledFrom(openWays).Draw(t, "way")
				source := rapid.SampledFrom([]string{"at once", "in halves", "end with data"}).Draw(t, "source")

				want, wantErr := way.run(c, several[source](bad), always(piece))
				require.Error(t, wantErr)
				got, err := way.run(beside(c, parallelism), several[source](bad), always(piece))
				require.Error(t, err)
				require.Equal(t, wantErr.Error(), err.Error())
				for _, sentinel := range sentinels {
					require.Equal(t, errors.Is(wantErr, sentinel), errors.Is(err, sentinel), "%v", sentinel)
				}
				require.True(t, bytes.HasPrefix(plaintext, got), "%d bytes were released", len(got))
				require.Equal(t, len(want), len(got))
			})
		})
	}
}

func TestParallelStreamsKeepTheirSourcesErrors(t *testing.T) {
	broken := errors.New("broken")
	c := alone(1000)
	plaintext := pattern(3 * mebibyte)
	sealed := body(c, plaintext)
	for _, at := range []int{mebibyte + 500_000, mebibyte + 1000, 2 * mebibyte} {
		for _, way := range sealWays {
			got, err := way.run(beside(c, 2), io.MultiReader(bytes.NewReader(plaintext[:at]), iotest.ErrReader(broken)), always(mebibyte))
			require.ErrorIs(t, err, broken, way.name)
			require.True(t, bytes.HasPrefix(sealed, got), way.name)
		}
		for _, way := range openWays {
			got, err := way.run(beside(c, 2), io.MultiReader(bytes.NewReader(sealed[:at]), iotest.ErrReader(broken)), always(mebibyte))
			require.ErrorIs(t, err, broken, way.name)
			require.True(t, bytes.HasPrefix(plaintext, got), way.name)
		}
	}
}

func TestParallelStreamsKeepTheirDestinationsErrors(t *testing.T) {
	full := errors.New("full")
	c := alone(1000)
	plaintext := pattern(4 * mebibyte)
	sealed := body(c, plaintext)
	const room = 2*mebibyte + 345
	destination := func(out *bytes.Buffer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			if n := room - out.Len(); n < len(p) {
				out.Write(p[:n])
				return n, full
			}
			return out.Write(p)
		})
	}
	t.Run("what WriteTo could not write is read afterwards", func(t *testing.T) {
		for name, r := range map[string]interface {
			io.Reader
			io.WriterTo
		}{
			"sealing": frame.NewSealReader(bytes.NewReader(plaintext), beside(c, 3)),
			"opening": frame.NewOpenReader(bytes.NewReader(sealed), beside(c, 3)),
		} {
			var out bytes.Buffer
			n, err := r.WriteTo(destination(&out))
			require.ErrorIs(t, err, full, name)
			require.EqualValues(t, room, n, name)
			_, err = io.Copy(&out, onlyReader{r})
			want := sealed
			if name == "opening" {
				want = plaintext
			}
			requireSame(t, out.Bytes(), err, want, name)
		}
	})
	t.Run("a writer stays broken", func(t *testing.T) {
		ways := map[string]func(w io.WriteCloser, input []byte) error{
			"Write": func(w io.WriteCloser, input []byte) error {
				n, err := w.Write(input)
				require.Less(t, n, len(input))
				return err
			},
			"ReadFrom": func(w io.WriteCloser, input []byte) error {
				_, err := w.(io.ReaderFrom).ReadFrom(bytes.NewReader(input))
				return err
			},
		}
		for name, run := range ways {
			var out bytes.Buffer
			check := func(w io.WriteCloser, input, output []byte) {
				require.ErrorIs(t, run(w, input), full, name)
				require.Equal(t, output[:room], out.Bytes(), name)
				require.ErrorIs(t, w.Close(), full, name)
				_, err := w.Write([]byte("more"))
				require.ErrorIs(t, err, full, name)
				out.Reset()
			}
			check(frame.NewSealWriter(destination(&out), beside(c, 3)), plaintext, sealed)
			check(frame.NewOpenWriter(destination(&out), beside(c, 3)), sealed, plaintext)
		}
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// crowd is a cipher that counts how many goroutines use it at once. It waits a moment for others.
type crowd struct {
	cipher.AEAD
	now, most atomic.Int32
	wait      time.Duration
}

func (c *crowd) enter() func() {
	now := c.now.Add(1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	time.Sleep(c.wait)
	return func() { c.now.Add(-1) }
}

func (c *crowd) Seal(dst, nonce, plaintext, additional []byte) []byte {
	defer c.enter()()
	return c.AEAD.Seal(dst, nonce, plaintext, additional)
}

func (c *crowd) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	defer c.enter()()
	return c.AEAD.Open(dst, nonce, ciphertext, additional)
}

func TestParallelism(t *testing.T) {
	plaintext := pattern(4 * mebibyte)
	sealed := body(alone(64<<10), plaintext)
	most := func(parallelism int) map[string]int32 {
		most := make(map[string]int32)
		measure := func(way way, src []byte) {
			c := beside(config(64<<10), parallelism)
			crowd := &crowd{AEAD: c.AEAD, wait: 100 * time.Microsecond}
			c.AEAD = crowd
			_, err := way.run(c, bytes.NewReader(src), always(5*mebibyte))
			require.NoError(t, err)
			most[way.name] = crowd.most.Load()
		}
		for _, way := range sealWays {
			measure(way, plaintext)
		}
		for _, way := range openWays {
			measure(way, sealed)
		}
		return most
	}
	t.Run("1", func(t *testing.T) {
		for name, n := range most(1) {
			require.EqualValues(t, 1, n, name)
		}
	})
	t.Run("3", func(t *testing.T) {
		for name, n := range most(3) {
			require.LessOrEqual(t, n, int32(3), name)
			require.Greater(t, n, int32(1), name)
		}
	})
	t.Run("default on one core", func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		for name, n := range most(0) {
			require.EqualValues(t, 1, n, name)
		}
	})
	t.Run("default on four", func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
		for name, n := range most(0) {
			require.LessOrEqual(t, n, int32(4), name)
			require.Greater(t, n, int32(1), name)
		}
	})
}

// TestReadingAndWritingOverlap checks that the source is read while the destination is written to.
// Otherwise it would never end, since the destination waits until the source is read further.
func TestReadingAndWritingOverlap(t *testing.T) {
	const size = 4 * mebibyte
	plaintext := pattern(size)
	c := beside(config(64<<10), 2)
	sealed := body(c, plaintext)
	ways := map[string]func(dst io.Writer, src io.Reader) error{
		"SealReader.WriteTo": func(dst io.Writer, src io.Reader) error {
			_, err := frame.NewSealReader(src, c).WriteTo(dst)
			return err
		},
		"SealWriter.ReadFrom": func(dst io.Writer, src io.Reader) error {
			_, err := frame.NewSealWriter(dst, c).ReadFrom(src)
			return err
		},
		"OpenReader.WriteTo": func(dst io.Writer, src io.Reader) error {
			_, err := frame.NewOpenReader(src, c).WriteTo(dst)
			return err
		},
		"OpenWriter.ReadFrom": func(dst io.Writer, src io.Reader) error {
			_, err := frame.NewOpenWriter(dst, c).ReadFrom(src)
			return err
		},
	}
	for name, run := range ways {
		t.Run(name, func(t *testing.T) {
			input := plaintext
			if name[0] == 'O' {
				input = sealed
			}
			var read, written atomic.Int64
			ahead := make(chan struct{})
			src := bytes.NewReader(input)
			err := run(writerFunc(func(p []byte) (int, error) {
				if written.Add(int64(len(p))) > 3*mebibyte/2 {
					select {
					case <-ahead:
					case <-time.After(time.Minute):
						return 0, errors.New("nothing is read meanwhile")
					}
				}
				return len(p), nil
			}), readerFunc(func(p []byte) (int, error) {
				n, err := src.Read(p)
				if before := read.Load(); before < 2*mebibyte && read.Add(int64(n)) >= 2*mebibyte {
					close(ahead)
				}
				return n, err
			}))
			require.NoError(t, err)
		})
	}
}

// TestWritingDoesNotWaitForReading has a source that returns more only when the destination has
// almost everything before it: all but a batch and a frame.
func TestWritingDoesNotWaitForReading(t *testing.T) {
	c := beside(config(1000), 2)
	plaintext := pattern(3 * mebibyte)
	var written atomic.Int64
	src, given := &inPieces{bytes.NewReader(plaintext), 10_000}, int64(0)
	_, err := frame.NewSealReader(readerFunc(func(p []byte) (int, error) {
		for start := time.Now(); written.Load() < given-11_000; time.Sleep(10 * time.Microsecond) {
			if time.Since(start) > time.Minute {
				return 0, fmt.Errorf("of %d bytes only %d were written", given, written.Load())
			}
		}
		n, err := src.Read(p)
		given += int64(n)
		return n, err
	}), c).WriteTo(writerFunc(func(p []byte) (int, error) {
		written.Add(int64(len(p)))
		return len(p), nil
	}))
	require.NoError(t, err)
}

func TestPanicsReachTheCaller(t *testing.T) {
	c := beside(config(1000), 2)
	n := 0
	destination := writerFunc(func(p []byte) (int, error) {
		if n += len(p); n > 2*mebibyte {
			panic("destination")
		}
		return len(p), nil
	})
	source := func() io.Reader {
		return io.MultiReader(bytes.NewReader(pattern(2*mebibyte)), readerFunc(func([]byte) (int, error) { panic("source") }))
	}
	require.PanicsWithValue(t, "source", func() { _, _ = frame.NewSealReader(source(), c).WriteTo(io.Discard) })
	require.PanicsWithValue(t, "destination", func() {
		_, _ = frame.NewSealReader(bytes.NewReader(pattern(4*mebibyte)), c).WriteTo(destination)
	})
	// Later streams can use what this one leaves in the pools.
	for range 3 {
		_, err := frame.NewSealReader(bytes.NewReader(pattern(4*mebibyte)), c).WriteTo(io.Discard)
		require.NoError(t, err)
	}
}

// TestOpenedFramesAreWrittenTogether counts the writes of a long body. Files take few large pieces
// in less time than many small ones.
func TestOpenedFramesAreWrittenTogether(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	plaintext := pattern(24*mebibyte + 5)
	for length, most := range map[int]int{1000: 100, 64 << 10: 120, 100_000: 130, 174_700: 145, 262_144: 97} {
		c := alone(length)
		sealed := body(c, plaintext)
		for name, open := range map[string]func(dst io.Writer) error{
			"OpenReader": func(dst io.Writer) error {
				_, err := frame.NewOpenReader(onlyReader{bytes.NewReader(sealed)}, beside(c, 2)).WriteTo(dst)
				return err
			},
			"OpenWriter": func(dst io.Writer) error {
				w := frame.NewOpenWriter(dst, beside(c, 2))
				if _, err := w.ReadFrom(onlyReader{bytes.NewReader(sealed)}); err != nil {
					return err
				}
				return w.Close()
			},
		} {
			var got countingWriter
			err := open(&got)
			requireSame(t, got.Bytes(), err, plaintext, fmt.Sprintf("%s, frames of %d", name, length))
			alone := mebibyte/length + 3 // before the stream takes several cores, and the final frame
			require.LessOrEqual(t, got.writes, most+alone, "%s, frames of %d", name, length)
		}
	}
}

type countingWriter struct {
	bytes.Buffer
	writes int
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.writes++
	return w.Buffer.Write(p)
}
