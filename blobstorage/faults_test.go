package blobstorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/provider"
)

// TestSecondCloseReturnsTheFirstResult closes a writer twice, as "defer w.Close()" and "return
// w.Close()" do together. The second Close must not wait for ever, nor report a failed upload as
// complete.
func TestSecondCloseReturnsTheFirstResult(t *testing.T) {
	_, stored, b := newMemory(t)
	for _, n := range []int{0, 1, 300_000} {
		w, err := b.NewWriter(t.Context(), "object", &blob.WriterOptions{ContentType: "a/b"})
		require.NoError(t, err)
		_, err = w.Write(noise(n))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.NoError(t, w.Close(), "the second Close")
	}
	require.NoError(t, stored.Delete(t.Context(), "object"))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := b.NewWriter(ctx, "object", &blob.WriterOptions{ContentType: "a/b"})
	require.NoError(t, err)
	_, err = w.Write(noise(300_000))
	require.NoError(t, err)
	cancel()
	for range 2 {
		require.ErrorIs(t, w.Close(), context.Canceled)
	}
	exists, err := stored.Exists(t.Context(), "object")
	require.NoError(t, err)
	require.False(t, exists)
}

// TestDroppedWriterLeavesNothing drops writers without a Close. Their goroutines end with the
// context or, if that does not end, when the writer is collected.
func TestDroppedWriterLeavesNothing(t *testing.T) {
	_, stored, b := newMemory(t)
	before := goleak.IgnoreCurrent()
	drop := func(ctx context.Context) {
		w, err := b.NewWriter(ctx, "dropped", &blob.WriterOptions{ContentType: "a/b"})
		require.NoError(t, err)
		_, err = w.Write(noise(300_000))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	drop(ctx)
	cancel()
	goleak.VerifyNone(t, before)

	drop(t.Context())
	for deadline := time.Now().Add(time.Minute); goleak.Find(before) != nil; {
		require.True(t, time.Now().Before(deadline), "the goroutine of a dropped writer is left")
		runtime.GC()
	}
	exists, err := stored.Exists(t.Context(), "dropped")
	require.NoError(t, err)
	require.False(t, exists)
}

// TestFailedSourceStoresNothing uploads from sources that fail in several ways: once before they
// end, as bodies of requests do, for ever, and with their last bytes.
func TestFailedSourceStoresNothing(t *testing.T) {
	lost := errors.New("connection lost")
	_, stored, b := newMemory(t)
	n := 0
	for _, size := range []int{0, 1, 65_535, 65_536, 65_537, 300_000} {
		for way, source := range map[string]func() io.Reader{
			"once":      func() io.Reader { return io.MultiReader(bytes.NewReader(noise(size)), &failsOnce{err: lost}) },
			"for ever":  func() io.Reader { return io.MultiReader(bytes.NewReader(noise(size)), iotest.ErrReader(lost)) },
			"with data": func() io.Reader { return &failsWithData{bytes.NewReader(noise(size)), lost} },
		} {
			n++
			err := b.Upload(t.Context(), "object", source(), &blob.WriterOptions{ContentType: "a/b"})
			require.ErrorIs(t, err, lost, "%d bytes, %s", size, way)
			exists, err := stored.Exists(t.Context(), "object")
			require.NoError(t, err)
			require.False(t, exists, "%d bytes, %s", size, way)
		}
	}
	t.Logf("%d failed uploads, nothing stored", n)
}

// failsOnce fails once, and then returns io.EOF.
type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	f.err = io.EOF
	return 0, err
}

// failsWithData fails together with its last bytes, and then returns io.EOF.
type failsWithData struct {
	*bytes.Reader
	err error
}

func (f *failsWithData) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if f.Reader.Len() == 0 && f.err != nil {
		err, f.err = f.err, nil
	}
	return n, err
}

func (f *failsWithData) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}

// TestSeekableCompressedObjects reads objects under zstd-seekable like any others: they have sizes,
// can be sought, and are served in ranges.
func TestSeekableCompressedObjects(t *testing.T) {
	_, _, b := newMemory(t, pikokms.WithEnabledTransformers(compress.ZstdSeekable))
	content := bytes.Repeat([]byte("a stored object, "), 100_000)
	require.NoError(t, b.WriteAll(t.Context(), "text", content, nil))
	a, err := b.Attributes(t.Context(), "text")
	require.NoError(t, err)
	require.EqualValues(t, len(content), a.Size)
	r, err := b.NewReader(t.Context(), "text", nil)
	require.NoError(t, err)
	require.EqualValues(t, len(content), r.Size())
	for _, seek := range []struct {
		offset int64
		whence int
		want   int64
	}{{0, io.SeekStart, 0}, {-100, io.SeekEnd, int64(len(content)) - 100}, {5, io.SeekStart, 5}} {
		at, err := r.Seek(seek.offset, seek.whence)
		require.NoError(t, err)
		require.Equal(t, seek.want, at)
		p := make([]byte, 50)
		_, err = io.ReadFull(r, p)
		require.NoError(t, err)
		require.Equal(t, string(content[at:at+50]), string(p))
	}
	require.NoError(t, r.Close())

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r, err := b.NewReader(request.Context(), "text", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer r.Close()
		http.ServeContent(w, request, "text.txt", r.ModTime(), r)
	}))
	defer server.Close()
	for header, want := range map[string]string{"": string(content), "bytes=1000-1999": string(content[1000:2000]), "bytes=-10": string(content[len(content)-10:])} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		if header != "" {
			request.Header.Set("Range", header)
		}
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		got, err := io.ReadAll(answer.Body)
		require.NoError(t, errors.Join(err, answer.Body.Close()))
		require.Less(t, answer.StatusCode, 300)
		require.Equal(t, want, string(got), header)
	}
}

// TestForeignObjectDoesNotSpoilAListing lists with sizes, although an object is not ours.
func TestForeignObjectDoesNotSpoilAListing(t *testing.T) {
	_, stored, b := newMemory(t)
	require.NoError(t, b.WriteAll(t.Context(), "ours", noise(100), nil))
	require.NoError(t, stored.WriteAll(t.Context(), "text", []byte("plain text"), nil))
	require.NoError(t, stored.WriteAll(t.Context(), "empty", nil, nil))
	message, err := stored.ReadAll(t.Context(), "ours")
	require.NoError(t, err)
	require.NoError(t, stored.WriteAll(t.Context(), "cut", message[:60], nil))
	sizes := make(map[string]int64)
	objects := b.List(&blob.ListOptions{BeforeList: WithSizes})
	for {
		o, err := objects.Next(t.Context())
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		sizes[o.Key] = o.Size
	}
	require.Equal(t, map[string]int64{"ours": 100, "text": -1, "empty": -1, "cut": -1}, sizes)
}

// TestEmptyPlainObjects reads empty objects, of which S3 refuses every range.
func TestEmptyPlainObjects(t *testing.T) {
	buckets := map[string]func(t *testing.T) *blob.Bucket{
		"memory": func(*testing.T) *blob.Bucket { return memblob.OpenBucket(nil) },
		"files": func(t *testing.T) *blob.Bucket {
			b, err := fileblob.OpenBucket(t.TempDir(), &fileblob.Options{NoTempDir: true})
			require.NoError(t, err)
			return b
		},
		"S3": func(t *testing.T) *blob.Bucket {
			b, err := blob.OpenBucket(t.Context(), newS3(t))
			require.NoError(t, err)
			return b
		},
	}
	for name, open := range buckets {
		t.Run(name, func(t *testing.T) {
			stored := open(t)
			b, err := Encrypt(stored, underKey(t, pikokms.AllowPlaintext())...)
			require.NoError(t, err)
			defer b.Close()
			require.NoError(t, stored.WriteAll(t.Context(), "plain", nil, nil))
			require.NoError(t, b.WriteAll(t.Context(), "ours", nil, nil))
			for _, key := range []string{"plain", "ours"} {
				a, err := b.Attributes(t.Context(), key)
				require.NoError(t, err)
				require.Zero(t, a.Size, key)
				for _, length := range []int64{-1, 10} {
					r, err := b.NewRangeReader(t.Context(), key, 0, length, nil)
					require.NoError(t, err, key)
					got, err := io.ReadAll(r)
					require.NoError(t, errors.Join(err, r.Close()))
					require.Empty(t, got)
				}
			}
		})
	}
}

// TestReplacedWhileItIsRead opens an object for ranges, and replaces it by one of the same size. In
// memory and files the new one has the same time, too, if the clock allows. Ranges give the old
// object or fail.
func TestReplacedWhileItIsRead(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plaintext %v", plain), func(t *testing.T) {
			stored := memblob.OpenBucket(nil)
			host, err := pikokms.New(underKey(t, pikokms.AllowPlaintext(), pikokms.WithStorage(New(stored, nil)))...)
			require.NoError(t, err)
			put := func(content []byte) {
				if plain {
					require.NoError(t, stored.WriteAll(t.Context(), "object", content, nil))
					return
				}
				require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(content)))
			}
			old, replacement := bytes.Repeat([]byte("a"), 1<<20), bytes.Repeat([]byte("b"), 1<<20)
			put(old)
			object, err := host.Open(t.Context(), "object")
			require.NoError(t, err)
			put(replacement)
			p := make([]byte, 100_000)
			n, err := object.ReadAt(p, 500_000)
			require.False(t, strings.Contains(string(p[:n]), "b"), "bytes of the object that took its place")
			require.Error(t, err)
			require.NoError(t, object.Close())
		})
	}
}

// restated passes an object on with the size and the time of another, as fileblob does with an
// object that is replaced between its two calls of the system.
type restated struct {
	counted
	size int64
	time time.Time
}

type restatedReader struct {
	driver.Reader
	of *restated
}

func (r *restated) NewRangeReader(ctx context.Context, key string, offset, length int64, o *driver.ReaderOptions) (driver.Reader, error) {
	reader, err := r.counted.NewRangeReader(ctx, key, offset, length, o)
	if err != nil {
		return nil, err
	}
	return restatedReader{reader, r}, nil
}

func (r restatedReader) Attributes() *driver.ReaderAttributes {
	return &driver.ReaderAttributes{Size: r.of.size, ModTime: r.of.time}
}

// TestReplacedWhileItIsOpened opens objects whose size is that of another. They are no damaged
// objects if somebody replaced or deleted them meanwhile.
func TestReplacedWhileItIsOpened(t *testing.T) {
	ctx := t.Context()
	inner := &restated{counted: counted{inner: memblob.OpenBucket(nil)}}
	b, err := Encrypt(blob.NewBucket(inner), underKey(t)...)
	require.NoError(t, err)
	host, err := pikokms.New(underKey(t, pikokms.WithStorage(New(blob.NewBucket(inner), nil)))...)
	require.NoError(t, err)
	require.NoError(t, b.WriteAll(ctx, "k", noise(100_000), nil))
	opens := func() [2]error {
		_, err := b.NewRangeReader(ctx, "k", 5, 10, nil)
		_, openErr := host.Open(ctx, "k")
		return [2]error{err, openErr}
	}
	const cut = 34_490 // bytes, so that less is left of the last frame than it has without content
	a, err := inner.inner.Attributes(ctx, "k")
	require.NoError(t, err)

	inner.size, inner.time = a.Size-cut, a.ModTime.Add(-time.Hour)
	for _, err := range opens() {
		require.ErrorIs(t, err, pikokms.ErrChanged)
	}
	stored, err := inner.inner.ReadAll(ctx, "k")
	require.NoError(t, err)
	require.NoError(t, inner.inner.WriteAll(ctx, "k", stored[:len(stored)-cut], nil))
	a, err = inner.inner.Attributes(ctx, "k")
	require.NoError(t, err)
	inner.size, inner.time = a.Size+1, a.ModTime
	_, err = b.Attributes(ctx, "k")
	require.ErrorIs(t, err, pikokms.ErrChanged)
	inner.size = a.Size
	for _, stated := range []time.Time{a.ModTime, a.ModTime.Truncate(time.Second)} { // the second as GCS does
		inner.time = stated
		for _, err := range opens() {
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			require.NotErrorIs(t, err, pikokms.ErrChanged)
		}
	}
}
