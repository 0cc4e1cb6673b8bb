package pikokms_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/provider"
)

func TestOpen(t *testing.T) {
	content := bytes.Repeat([]byte("a stored object, "), 60_000)
	for _, enabled := range [][]string{nil, {compress.ZstdSeekable}} {
		f := newFixture(t, pikokms.WithEnabledTransformers(enabled...), pikokms.BindObjectName("uploads"))
		for _, size := range []int{0, 1, 65_536, len(content)} {
			require.NoError(t, f.Put(t.Context(), "a/b", bytes.NewReader(content[:size])))
			object, err := f.Open(t.Context(), "a/b")
			require.NoError(t, err)
			require.EqualValues(t, size, object.Size())
			require.False(t, object.ModTime().IsZero())
			require.NoError(t, iotest.TestReader(object, content[:size]))

			// Replaced while it is open, by one of the same size and time, it stays the old one.
			other := bytes.Repeat([]byte("x"), size)
			require.NoError(t, f.Put(t.Context(), "a/b", bytes.NewReader(other)))
			require.NoError(t, os.Chtimes(filepath.Join(f.dir, "a", "b"), object.ModTime(), object.ModTime()))
			got, err := io.ReadAll(io.NewSectionReader(object, 0, object.Size()))
			require.NoError(t, err)
			require.True(t, bytes.Equal(content[:size], got))
			require.NoError(t, object.Close())
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	f := newFixture(t)
	_, err := f.Open(t.Context(), "none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "plain"), []byte("plain text"), 0o600))
	_, err = f.Open(t.Context(), "plain")
	require.ErrorIs(t, err, pikokms.ErrPlaintext)

	require.NoError(t, f.Put(t.Context(), "a", bytes.NewReader(make([]byte, 200_000))))
	stored, err := os.ReadFile(filepath.Join(f.dir, "a"))
	require.NoError(t, err)
	for _, cut := range []int{0, 1, 50, 1000, len(stored) - 1} {
		require.NoError(t, os.WriteFile(filepath.Join(f.dir, "cut"), stored[:cut], 0o600))
		_, err = f.Open(t.Context(), "cut")
		require.Error(t, err, "%d bytes", cut)
	}
	stored[100_000] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "changed"), stored, 0o600))
	object, err := f.Open(t.Context(), "changed")
	require.NoError(t, err)
	defer object.Close()
	_, err = io.ReadAll(object)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	for _, format := range compress.Formats() {
		if format == compress.ZstdSeekable {
			continue
		}
		f := newFixture(t, pikokms.WithEnabledTransformers(format))
		require.NoError(t, f.Put(t.Context(), "a", bytes.NewReader([]byte("text"))))
		_, err := f.Open(t.Context(), "a")
		require.ErrorIs(t, err, pikokms.ErrNotSeekable)
		require.ErrorContains(t, err, format)
	}

	f = newFixture(t, pikokms.AllowPlaintext())
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "plain"), []byte("plain text"), 0o600))
	plain, err := f.Open(t.Context(), "plain")
	require.NoError(t, err)
	defer plain.Close()
	require.NoError(t, iotest.TestReader(plain, []byte("plain text")))
}

func TestRangeObject(t *testing.T) {
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i >> 8 * 7)
	}
	var fetches, open atomic.Int64
	newReader := func(t *testing.T) *pikokms.RangeObject {
		r := pikokms.NewRangeObject(int64(len(content)), time.Time{}, content[:1000], func(offset, length int64) (io.ReadCloser, error) {
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
		r := pikokms.NewRangeObject(100, time.Time{}, nil, func(offset, _ int64) (io.ReadCloser, error) {
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
			r := pikokms.NewRangeObject(int64(len(content)), time.Time{}, nil, func(offset, length int64) (io.ReadCloser, error) {
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
	r := pikokms.NewRangeObject(int64(len(content)), time.Time{}, nil, func(int64, int64) (io.ReadCloser, error) {
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

func TestFS(t *testing.T) {
	for _, enabled := range [][]string{nil, {compress.ZstdSeekable}} {
		f := newFixture(t, pikokms.WithEnabledTransformers(enabled...), pikokms.BindObjectName("uploads"))
		require.NoError(t, fstest.TestFS(f.FS(t.Context())))
		for _, key := range []string{"a", "b/c", "b/d/e", "video.mp4"} {
			require.NoError(t, f.Put(t.Context(), key, strings.NewReader(strings.Repeat(key, 30_000))))
		}
		require.NoError(t, fstest.TestFS(f.FS(t.Context()), "a", "b/c", "b/d/e", "video.mp4"))

		server := httptest.NewServer(http.FileServerFS(f.FS(t.Context())))
		defer server.Close()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/b/c", nil)
		require.NoError(t, err)
		request.Header.Set("Range", "bytes=60000-60002")
		response, err := server.Client().Do(request)
		require.NoError(t, err)
		got, err := io.ReadAll(response.Body)
		require.NoError(t, errors.Join(err, response.Body.Close()))
		require.Equal(t, http.StatusPartialContent, response.StatusCode)
		require.Equal(t, "b/c", string(got))

		_, err = fs.Stat(f.FS(t.Context()), "none")
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = f.FS(t.Context()).Open("../a")
		require.ErrorIs(t, err, fs.ErrInvalid)
		require.NoError(t, os.WriteFile(filepath.Join(f.dir, "a"), []byte("plain text"), 0o600))
		_, err = f.FS(t.Context()).Open("a")
		require.ErrorIs(t, err, pikokms.ErrPlaintext)
	}
}

// opening counts the objects that are opened.
type opening struct {
	*pikokms.Folder
	opens int
}

func (o *opening) Open(ctx context.Context, key string) (pikokms.Object, error) {
	o.opens++
	return o.Folder.Open(ctx, key)
}

// The size of a compressed object takes no second request of the storage.
func TestFSOpensAnObjectOnceForItsSize(t *testing.T) {
	f := newFixture(t, pikokms.WithEnabledTransformers(compress.ZstdSeekable))
	require.NoError(t, f.Put(t.Context(), "a", strings.NewReader("content")))
	storage := &opening{Folder: f.folder}
	host, err := pikokms.New(pikokms.WithCryptoProvider("local", newLocal(t, "local", 1)), pikokms.WithStorage(storage))
	require.NoError(t, err)
	entries, err := fs.ReadDir(host.FS(t.Context()), ".")
	require.NoError(t, err)
	require.Len(t, entries, 1)
	info, err := entries[0].Info()
	require.NoError(t, err)
	require.EqualValues(t, 7, info.Size())
	require.Equal(t, 1, storage.opens)
}
