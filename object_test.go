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
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
)

func TestOpen(t *testing.T) {
	race.SkipShort(t)
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

func TestFS(t *testing.T) {
	race.SkipShort(t)
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
	*folderstorage.Storage
	opens int
}

func (o *opening) Open(ctx context.Context, key string) (pikokms.Object, error) {
	o.opens++
	return o.Storage.Open(ctx, key)
}

// The size of a compressed object takes no second request of the storage.
func TestFSOpensAnObjectOnceForItsSize(t *testing.T) {
	f := newFixture(t, pikokms.WithEnabledTransformers(compress.ZstdSeekable))
	require.NoError(t, f.Put(t.Context(), "a", strings.NewReader("content")))
	storage := &opening{Storage: f.folder}
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
