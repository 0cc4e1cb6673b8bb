package pikostorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/service"
)

// way is a way in which Piko's storage service stores an object, by its calls of a provider.
type way struct {
	name       string
	repository string // "default" if empty
	store      func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error
}

var ways = []way{
	{name: "PutObject", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		return p.Put(ctx, upload(key, content))
	}},
	{name: "upload builder with no size", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key, content)
		params.Size = 0
		return p.Put(ctx, params)
	}},
	{name: "upload builder with metadata", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key, content)
		params.Metadata = map[string]string{"owner": "ann"}
		return p.Put(ctx, params)
	}},
	{name: "content-addressed", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		if _, err := p.Stat(ctx, at("default", key)); err == nil {
			return errors.New("stored already")
		}
		params := upload(key, content)
		params.HashAlgorithm, params.ExpectedHash, params.UseContentAddressing = "sha256", "of the plaintext", true
		return p.Put(ctx, params)
	}},
	{name: "multipart", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key, content)
		params.MultipartConfig = new(storage.DefaultMultipartConfig())
		return p.Put(ctx, params)
	}},
	{name: "presigned PUT", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key, content)
		params.Reader = struct{ io.Reader }{params.Reader} // the body of a request
		params.Size = 100 << 20                            // the most that may come
		return p.Put(ctx, params)
	}},
	{name: "dispatcher", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key, content)
		params.TransformConfig = &storage.TransformConfig{EnabledTransformers: []string{"gzip"}} // it applies none
		return p.Put(ctx, params)
	}},
	{name: "PutObjects", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		result, err := p.PutMany(ctx, &storage.PutManyParams{Repository: "default", Objects: []storage.PutObjectSpec{
			{Key: key, Reader: bytes.NewReader(content), Size: int64(len(content)), ContentType: "application/pdf"},
			{Key: key + ".too", Reader: bytes.NewReader(content), Size: int64(len(content)), ContentType: "application/pdf"},
		}})
		if err == nil && (result.TotalSuccessful != 2 || result.HasErrors()) {
			err = fmt.Errorf("%+v", result)
		}
		return err
	}},
	{name: "copy", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		if err := p.Put(ctx, upload(key+".source", content)); err != nil {
			return err
		}
		return p.Copy(ctx, "default", key+".source", key)
	}},
	{name: "copy to another repository", repository: "other", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		if err := p.Put(ctx, upload(key+".source", content)); err != nil {
			return err
		}
		return p.CopyToAnotherRepository(ctx, "default", key+".source", "other", key)
	}},
	{name: "asset registry", repository: "assets", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		params := upload(key+".temporary", content)
		params.Repository, params.Size, params.ContentType = "assets", -1, "application/octet-stream"
		if err := p.Put(ctx, params); err != nil {
			return err
		}
		return p.Rename(ctx, "assets", key+".temporary", key)
	}},
	{name: "migration from an undecorated provider", store: func(ctx context.Context, p storage.ProviderPort, key string, content []byte) error {
		old := newShelf(false)
		params := upload(key, content)
		// Of an upload through a transformer of Piko, whose migration gives what it has undone.
		params.Metadata = map[string]string{"x-piko-transformers": `["gzip"]`}
		if err := old.Put(ctx, params); err != nil {
			return err
		}
		return migrate(ctx, old, p, key)
	}},
}

// migrate asks of two providers what Piko's migration asks of them.
func migrate(ctx context.Context, from, to storage.ProviderPort, key string) error {
	info, err := from.Stat(ctx, at("default", key))
	if err != nil {
		return err
	}
	r, err := from.Get(ctx, at("default", key))
	if err != nil {
		return err
	}
	return errors.Join(to.Put(ctx, &storage.PutParams{
		Repository: "default", Key: key, Reader: r, Size: info.Size, ContentType: info.ContentType, Metadata: info.Metadata,
	}), r.Close())
}

// settings are the options under which every way is tried.
var settings = []struct {
	name    string
	options []pikokms.Option
}{
	{"plain", nil},
	{"names bound", []pikokms.Option{pikokms.BindObjectName("app")}},
	{"zstd-seekable", []pikokms.Option{pikokms.WithEnabledTransformers("zstd-seekable")}},
	{"data-key cache", []pikokms.Option{pikokms.WithDataKeyCache(service.CacheLimits{})}},
}

// TestEveryWay stores objects in every way, searches what is stored for the plaintext, and reads
// them in every way.
func TestEveryWay(t *testing.T) {
	race.SkipShort(t)
	sizes := []int{0, 1, 65_535, 65_536, 65_537, 17 << 20}
	if race.Enabled {
		sizes[5] = 3 << 20
	}
	if testing.Short() {
		sizes = sizes[:5]
	}
	for _, set := range settings {
		for _, native := range []bool{false, true} {
			for _, w := range ways {
				if w.repository == "" {
					w.repository = "default"
				}
				t.Run(fmt.Sprintf("%s/%s/native=%v", set.name, w.name, native), func(t *testing.T) {
					inner := newShelf(native)
					p := encrypting(t, inner, set.options...)
					for _, size := range sizes {
						if size > 1<<20 && set.name != "plain" {
							continue
						}
						content := document(size)
						key := fmt.Sprintf("folder/%d.pdf", size)
						require.NoError(t, w.store(t.Context(), p, key, content))
						requireEncrypted(t, inner)
						requireReadable(t, inner, p, w.repository, key, content)
						inner.objects = make(map[string]shelved)
					}
				})
			}
		}
	}
}

// requireEncrypted searches all that is stored for the plaintext.
func requireEncrypted(t *testing.T, inner *shelf) {
	t.Helper()
	require.NotEmpty(t, inner.objects)
	for name, o := range inner.objects {
		require.True(t, header.Sniff(o.content), "%s is no message", name)
		require.NotContains(t, string(o.content), marker, name)
		require.NotContains(t, o.metadata, "x-piko-transformers", name)
	}
}

// requireReadable reads an object in every way and compares the bytes.
func requireReadable(t *testing.T, inner *shelf, p storage.ProviderPort, repository, key string, content []byte) {
	t.Helper()
	size := int64(len(content))
	for range 2 {
		got, err := read(t, p, at(repository, key))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), "%d bytes of %d", len(got), size)
	}
	for _, r := range []storage.ByteRange{
		{Start: 0, End: 0},                   // the first byte
		{Start: size - 1, End: size - 1},     // the last byte
		{Start: size - 10, End: -1},          // a suffix
		{Start: 0, End: -1},                  // everything
		{Start: 65_530, End: 65_545},         // across frames
		{Start: 3, End: math.MaxInt64},       // past the end
		{Start: 0, End: math.MaxInt64},       // far past the end
		{Start: size, End: -1},               // behind the end
		{Start: size + 100, End: size + 200}, // far behind the end
	} {
		if r.Start < 0 {
			continue
		}
		from, to := min(r.Start, size), size
		if r.End >= 0 && r.End < size {
			to = r.End + 1
		}
		params := at(repository, key)
		params.ByteRange = &r
		got, err := read(t, p, params)
		require.NoError(t, err, "%+v of %d", r, size)
		require.True(t, bytes.Equal(content[from:max(from, to)], got), "%+v of %d: %d bytes", r, size, len(got))
	}
	info, err := p.Stat(t.Context(), at(repository, key))
	require.NoError(t, err)
	require.Equal(t, size, info.Size)
	require.NotContains(t, info.Metadata, "x-piko-transformers")
	exists, err := p.Exists(t.Context(), at(repository, key))
	require.NoError(t, err)
	require.True(t, exists)
	hash, err := p.GetHash(t.Context(), at(repository, key))
	require.NoError(t, err)
	require.Equal(t, inner.hash(content), hash)
	if repository == "default" {
		away := newShelf(false)
		require.NoError(t, migrate(t.Context(), p, away, key))
		require.True(t, bytes.Equal(content, away.objects[place("default", key)].content))
	}
}

// TestRangesThatAreNone gives an error for a range that ends before it begins.
func TestRangesThatAreNone(t *testing.T) {
	p := encrypting(t, newShelf(false))
	require.NoError(t, p.Put(t.Context(), upload("a", document(100))))
	for _, r := range []storage.ByteRange{{Start: -1, End: 5}, {Start: 9, End: 5}} {
		params := at("default", "a")
		params.ByteRange = &r
		_, err := p.Get(t.Context(), params)
		require.ErrorContains(t, err, "there is no range")
	}
}

// TestRangeCost counts requests and calls of the key service: a range does not read the object.
func TestRangeCost(t *testing.T) {
	inner := newShelf(true)
	k, behind := newKeys(t)
	p := encryptWith(t, inner, k)
	require.NoError(t, p.Put(t.Context(), upload("a", document(40<<20))))
	require.EqualValues(t, 1, behind.calls.Load())
	inner.gets = 0
	params := at("default", "a")
	params.ByteRange = &storage.ByteRange{Start: 20 << 20, End: 20<<20 + 99}
	_, err := read(t, p, params)
	require.NoError(t, err)
	require.Equal(t, 3, inner.gets, "the header, the final frame and the frames of the range")
	require.EqualValues(t, 2, behind.calls.Load())
	inner.gets = 0
	_, err = p.Stat(t.Context(), at("default", "a"))
	require.NoError(t, err)
	require.Equal(t, 1, inner.gets)
	require.EqualValues(t, 2, behind.calls.Load(), "a size needs no key")
}

// TestMetadataStays has what an application states about an object come back.
func TestMetadataStays(t *testing.T) {
	for _, options := range [][]pikokms.Option{nil, {pikokms.BindObjectName("app")}} {
		inner := newShelf(true)
		p := encrypting(t, inner, options...)
		params := upload("a", document(100))
		params.Metadata = map[string]string{"owner": "ann"}
		require.NoError(t, p.Put(t.Context(), params))
		require.NoError(t, p.Copy(t.Context(), "default", "a", "b"))
		require.NoError(t, p.Rename(t.Context(), "default", "b", "c"))
		info, err := p.Stat(t.Context(), at("default", "c"))
		require.NoError(t, err)
		require.Equal(t, map[string]string{"owner": "ann"}, info.Metadata)
		require.Equal(t, "application/pdf", info.ContentType)
		require.Len(t, inner.objects, 2)
	}
}

// TestSwappedObjects swaps two objects in the storage. Where names are bound, neither is read.
func TestSwappedObjects(t *testing.T) {
	inner := newShelf(false)
	p := encrypting(t, inner, pikokms.BindObjectName("app"))
	for _, name := range [][2]string{{"default", "a"}, {"default", "b"}, {"other", "a"}} {
		params := upload(name[1], document(100_000))
		params.Repository = name[0]
		require.NoError(t, p.Put(t.Context(), params))
	}
	for _, other := range [][2]string{{"default", "b"}, {"other", "a"}} {
		a, b := place("default", "a"), place(other[0], other[1])
		inner.objects[a], inner.objects[b] = inner.objects[b], inner.objects[a]
		requireUnreadable(t, p, "default", "a")
		requireUnreadable(t, p, other[0], other[1])
		inner.objects[a], inner.objects[b] = inner.objects[b], inner.objects[a]
	}
	_, err := read(t, p, at("default", "a"))
	require.NoError(t, err)
	// A repository ends where it ends.
	params := upload("c/d", document(10))
	params.Repository = "x"
	require.NoError(t, p.Put(t.Context(), params))
	inner.objects[place("x/c", "d")] = inner.objects[place("x", "c/d")]
	requireUnreadable(t, p, "x/c", "d")
}

// TestPartsFit: an upload to a provider of parts takes parts that its size needs.
func TestPartsFit(t *testing.T) {
	inner := newShelf(true)
	p := encrypting(t, inner)
	for _, c := range []struct {
		content int
		stated  int64
		part    int64 // 0 for one request
	}{
		{100, 100, 0},
		{100, 0, 0},
		{100, 100 << 20, 0},
		{6 << 20, 6 << 20, 5 << 20},
		{6 << 20, 1 << 30, 16 << 20},
		{6 << 20, 0, 16 << 20},
		{6 << 20, 5 << 40, (5 << 40) / 9_900},
	} {
		params := upload("a", document(c.content))
		params.Size = c.stated
		require.NoError(t, p.Put(t.Context(), params))
		got := inner.puts[len(inner.puts)-1]
		if c.part == 0 {
			require.Nil(t, got.MultipartConfig)
			require.Implements(t, (*io.Seeker)(nil), got.Reader)
			require.Positive(t, got.Size)
			continue
		}
		require.EqualValues(t, -1, got.Size)
		require.Equal(t, c.part, got.MultipartConfig.PartSize, "%+v", c)
	}
	own := storage.MultipartUploadConfig{PartSize: 50 << 20, Concurrency: 2}
	params := upload("a", document(6<<20))
	params.MultipartConfig = &own
	require.NoError(t, p.Put(t.Context(), params))
	require.Equal(t, own, *inner.puts[len(inner.puts)-1].MultipartConfig)
	require.NotSame(t, &own, inner.puts[len(inner.puts)-1].MultipartConfig)
}

// TestBatches has a batch stop at its first failure, or go on.
func TestBatches(t *testing.T) {
	for _, goOn := range []bool{false, true} {
		inner := newShelf(true)
		p := encrypting(t, inner)
		params := &storage.PutManyParams{Repository: "default", Concurrency: 1, ContinueOnError: goOn}
		for i := range 5 {
			o := storage.PutObjectSpec{Key: fmt.Sprint(i), Reader: strings.NewReader("content"), ContentType: "text/plain"}
			if i == 1 {
				o.Reader = io.MultiReader(strings.NewReader("part"), failingReader{errors.New("the client hung up")})
			}
			params.Objects = append(params.Objects, o)
		}
		result, err := p.PutMany(t.Context(), params)
		require.NoError(t, err)
		require.Equal(t, 5, result.TotalRequested)
		require.Equal(t, 1, result.TotalFailed)
		require.Equal(t, "1", result.FailedKeys[0].Key)
		require.Contains(t, result.FailedKeys[0].Error, "the client hung up")
		require.False(t, result.FailedKeys[0].Retryable)
		if goOn {
			require.Equal(t, []string{"0", "2", "3", "4"}, result.SuccessfulKeys)
		} else {
			require.Equal(t, []string{"0"}, result.SuccessfulKeys)
		}
		require.Len(t, inner.objects, result.TotalSuccessful)
		requireEncrypted(t, inner)
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }
