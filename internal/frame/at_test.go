package frame_test

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/internal/frame"
)

// counted counts the bytes that are read of a source.
type counted struct {
	r    io.ReaderAt
	mu   sync.Mutex
	read int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read += int64(n)
	return n, err
}

func TestReaderAt(t *testing.T) {
	c := config(16)
	for _, n := range []int{0, 1, 15, 16, 17, 32, 100} {
		for _, fullLast := range []bool{false, true} {
			sealed := bytes.Join(handmade(c, pattern(n), fullLast), nil)
			stored := append(append([]byte("header"), sealed...), "behind"...)
			r, err := frame.NewReaderAt(bytes.NewReader(stored), 6, int64(len(sealed)), c)
			require.NoError(t, err)
			require.EqualValues(t, n, r.Size())
			require.NoError(t, iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), pattern(n)))
			for off := range n + 2 {
				for length := range n + 2 {
					p := make([]byte, length)
					got, err := r.ReadAt(p, int64(off))
					want := pattern(n)[min(off, n):min(off+length, n)]
					require.Equal(t, want, append([]byte{}, p[:got]...))
					if len(want) < length {
						require.Equal(t, io.EOF, err)
					} else {
						require.NoError(t, err)
					}
				}
			}
			_, err = r.ReadAt(nil, -1)
			require.Error(t, err)
		}
	}
}

func TestReaderAtReadsWhatItNeeds(t *testing.T) {
	c := config(1000)
	plaintext := pattern(100_000)
	sealed := body(c, plaintext)
	src := &counted{r: bytes.NewReader(sealed)}
	r, err := frame.NewReaderAt(src, 0, int64(len(sealed)), c)
	require.NoError(t, err)
	src.read = 0
	p := make([]byte, 5000)
	_, err = r.ReadAt(p, 50_500)
	require.NoError(t, err)
	require.True(t, bytes.Equal(plaintext[50_500:55_500], p))
	require.EqualValues(t, 6*(1000+frame.RegularOverhead), src.read)

	src.read = 0
	got, err := io.ReadAll(iotest.OneByteReader(io.NewSectionReader(r, 10_000, 10_000)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(plaintext[10_000:20_000], got))
	require.EqualValues(t, 10*(1000+frame.RegularOverhead), src.read, "small reads open each frame once")
}

func TestReaderAtRefusesDamage(t *testing.T) {
	c := config(16)
	frames := handmade(c, pattern(100), false)
	sealed := bytes.Join(frames, nil)
	for at := range sealed {
		changed := bytes.Clone(sealed)
		changed[at] ^= 1
		r, err := frame.NewReaderAt(bytes.NewReader(changed), 0, int64(len(changed)), c)
		if at >= len(sealed)-len(frames[len(frames)-1]) {
			require.Error(t, err, "the final frame is verified first")
			continue
		}
		require.NoError(t, err)
		p := make([]byte, 100)
		n, err := r.ReadAt(p, 0)
		require.True(t, errors.Is(err, frame.ErrAuthentication) || errors.Is(err, frame.ErrSequence), "%v", err)
		require.Equal(t, at/(16+frame.RegularOverhead)*16, n)
		require.Equal(t, pattern(100)[:n], p[:n])
	}
	for n := range sealed {
		_, err := frame.NewReaderAt(bytes.NewReader(sealed[:n]), 0, int64(n), c)
		require.Error(t, err, "cut at %d", n)
		r, err := frame.NewReaderAt(bytes.NewReader(sealed[:n]), 0, int64(len(sealed)), c)
		require.ErrorIs(t, err, frame.ErrTruncated)
		require.Nil(t, r)
	}
	swapped := bytes.Join(append([][]byte{frames[1], frames[0]}, frames[2:]...), nil)
	r, err := frame.NewReaderAt(bytes.NewReader(swapped), 0, int64(len(swapped)), c)
	require.NoError(t, err)
	_, err = r.ReadAt(make([]byte, 1), 20)
	require.ErrorIs(t, err, frame.ErrSequence)

	broken := errors.New("disk")
	_, err = frame.NewReaderAt(failing{broken}, 0, int64(len(sealed)), c)
	require.ErrorIs(t, err, broken)
	c.Unframed = true
	_, err = frame.NewReaderAt(bytes.NewReader(sealed), 0, int64(len(sealed)), c)
	require.ErrorIs(t, err, frame.ErrMalformed)
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestReaderAtAnyRangeConcurrently(t *testing.T) {
	c := config(64)
	plaintext := pattern(10_000)
	sealed := body(c, plaintext)
	r, err := frame.NewReaderAt(bytes.NewReader(sealed), 0, int64(len(sealed)), c)
	require.NoError(t, err)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			rapid.Check(t, func(t *rapid.T) {
				off := rapid.IntRange(0, len(plaintext)).Draw(t, "off")
				p := make([]byte, rapid.IntRange(0, 500).Draw(t, "length"))
				n, err := r.ReadAt(p, int64(off))
				want := plaintext[off:min(off+len(p), len(plaintext))]
				if n != len(want) || !bytes.Equal(want, p[:n]) || n < len(p) && err != io.EOF || n == len(p) && err != nil {
					t.Fatalf("%d bytes at %d, %v", n, off, err)
				}
			})
		})
	}
	readers.Wait()
}
