package transfer_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/transfer"
)

func TestRangeObject(t *testing.T) {
	race.SkipShort(t)
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i >> 8 * 7)
	}
	var fetches, open atomic.Int64
	newReader := func(t *testing.T) *transfer.RangeObject {
		r := transfer.NewRangeObject(int64(len(content)), time.Time{}, content[:1000], func(offset, length int64) (io.ReadCloser, error) {
			fetches.Add(1)
			open.Add(1)
			return closer{io.NewSectionReader(bytes.NewReader(content), offset, length), func() { open.Add(-1) }}, nil
		})
		fetches.Store(0)
		t.Cleanup(func() {
			require.NoError(t, r.Close())
			require.Zero(t, open.Load(), "fetches are left open")
		})
		return r
	}
	t.Run("all of it", func(t *testing.T) {
		r := newReader(t)
		require.NoError(t, iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), content))
	})
	t.Run("a run takes a few fetches", func(t *testing.T) {
		r := newReader(t)
		p := make([]byte, 10_000)
		for off := int64(0); off < r.Size(); off += int64(len(p)) {
			n, err := r.ReadAt(p, off)
			require.True(t, err == nil || err == io.EOF)
			require.True(t, bytes.Equal(content[off:off+int64(n)], p[:n]))
		}
		require.LessOrEqual(t, fetches.Load(), int64(7))
	})
	t.Run("an expected run takes one", func(t *testing.T) {
		r := newReader(t)
		r.Expect(1 << 20)
		for off := int64(1 << 20); off < 2<<20; off += 65_536 {
			_, err := r.ReadAt(make([]byte, 65_536), off)
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, fetches.Load())
	})
	t.Run("side by side", func(t *testing.T) {
		r := newReader(t)
		var readers sync.WaitGroup
		for i := range 8 {
			readers.Go(func() {
				p := make([]byte, 5000)
				for off := i * 5000; off+len(p) < len(content); off += 8 * len(p) {
					if n, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p[:n], content[off:off+n]) {
						t.Errorf("at %d: %v", off, err)
					}
				}
			})
		}
		readers.Wait()
	})
	t.Run("failures", func(t *testing.T) {
		gone := errors.New("gone")
		r := transfer.NewRangeObject(100, time.Time{}, nil, func(offset, _ int64) (io.ReadCloser, error) {
			if offset > 50 {
				return nil, gone
			}
			return io.NopCloser(bytes.NewReader(nil)), nil
		})
		_, err := r.ReadAt(make([]byte, 5), 60)
		require.ErrorIs(t, err, gone)
		_, err = r.ReadAt(make([]byte, 20), 0)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, err = r.ReadAt(make([]byte, 1), -1)
		require.Error(t, err)
		_, err = r.ReadAt(make([]byte, 1), 100)
		require.ErrorIs(t, err, io.EOF)
	})
}

// TestRangeObjectBrokenAnswers makes fetches break off at every offset. A read goes on where a
// fetch broke off, unless every fetch returns nothing.
func TestRangeObjectBrokenAnswers(t *testing.T) {
	content := []byte("what stands behind a server that hangs up now and then")
	reset := errors.New("connection reset")
	for cut := range content {
		for way, end := range map[string]io.Reader{
			"ends early":            bytes.NewReader(nil),
			"fails":                 iotest.ErrReader(reset),
			"fails once, then ends": &failsOnce{err: reset},
		} {
			breaks, fetches, open := 2, 0, 0
			r := transfer.NewRangeObject(int64(len(content)), time.Time{}, nil, func(offset, length int64) (io.ReadCloser, error) {
				fetches++
				open++
				source := io.Reader(bytes.NewReader(content[offset : offset+length]))
				if breaks > 0 && offset <= int64(cut) {
					breaks--
					source = io.MultiReader(bytes.NewReader(content[offset:cut]), end)
				}
				return closer{source, func() { open-- }}, nil
			})
			p := make([]byte, len(content))
			n, err := r.ReadAt(p, 0)
			require.NoError(t, err, "%s at %d", way, cut)
			require.Equal(t, string(content), string(p[:n]), "%s at %d", way, cut)
			require.LessOrEqual(t, fetches, 3)
			require.NoError(t, r.Close())
			require.Zero(t, open, "fetches are left open")
			require.NoError(t, r.Close(), "a second Close")
			_, err = r.ReadAt(p, 0)
			require.ErrorIs(t, err, fs.ErrClosed)
		}
	}
	fetches := 0
	r := transfer.NewRangeObject(int64(len(content)), time.Time{}, nil, func(int64, int64) (io.ReadCloser, error) {
		fetches++
		return io.NopCloser(iotest.ErrReader(reset)), nil
	})
	_, err := r.ReadAt(make([]byte, 10), 0)
	require.ErrorIs(t, err, reset)
	require.Equal(t, 3, fetches)
}

// failsOnce fails once, and then returns io.EOF.
type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	if f.err = io.EOF; err == io.EOF {
		return 0, io.EOF
	}
	return 0, err
}

type closer struct {
	io.Reader
	close func()
}

func (c closer) Close() error {
	c.close()
	return nil
}
