package pikostorage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// stream encrypts content as a crypto provider of pikokms does for Piko's transformer
// "crypto-service".
func stream(t testing.TB, keyring provider.Keyring, content []byte) io.Reader {
	e := message.Encrypter{Keyring: keyring}
	r, err := e.NewReader(t.Context(), bytes.NewReader(content), map[string]string{provider.PairUse: provider.UseStream})
	require.NoError(t, err)
	return struct{ io.Reader }{r}
}

// named is an upload of which Piko's pipeline says that it applied the transformers in list.
func named(key string, content io.Reader, list string, names ...string) *storage.PutParams {
	return &storage.PutParams{
		Repository: "default", Key: key, Reader: content, Size: -1, ContentType: "application/pdf",
		Metadata:        map[string]string{transformersKey: list},
		TransformConfig: &storage.TransformConfig{EnabledTransformers: names},
	}
}

// TestUploadsThatNameCryptoService: such uploads are stored as others are, so that ranges, sizes
// and hashes are the original's.
func TestUploadsThatNameCryptoService(t *testing.T) {
	for _, set := range settings {
		for _, size := range []int{0, 1, 65_536, 200_000} {
			t.Run(fmt.Sprintf("%s/%d", set.name, size), func(t *testing.T) {
				inner := newShelf(true)
				k, behind := newKeys(t)
				p := encryptWith(t, inner, k, set.options...)
				content := document(size)
				require.NoError(t, p.Put(t.Context(), named("a", stream(t, behind, content), `["crypto-service"]`, "crypto-service")))
				result, err := p.PutMany(t.Context(), &storage.PutManyParams{
					Repository: "default", TransformConfig: &storage.TransformConfig{EnabledTransformers: []string{"crypto-service"}},
					Objects: []storage.PutObjectSpec{{Key: "b", Reader: stream(t, behind, content), Size: -1, ContentType: "application/pdf"}},
				})
				require.NoError(t, err)
				require.False(t, result.HasErrors(), result)
				requireEncrypted(t, inner)
				for _, key := range []string{"a", "b"} {
					requireReadable(t, inner, p, "default", key, content)
				}
			})
		}
	}
}

// TestUploadsOfOtherCryptoServices: what this storage has no key for, or what is no stream of
// pikokms, stays as Piko's pipeline has made it.
func TestUploadsOfOtherCryptoServices(t *testing.T) {
	other, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{9}, 32), Name: "other"})
	require.NoError(t, err)
	k, behind := newKeys(t)
	object := message.Encrypter{Keyring: behind}
	r, err := object.NewReader(t.Context(), bytes.NewReader(document(1000)), nil)
	require.NoError(t, err)
	for name, content := range map[string]io.Reader{
		"another key": stream(t, other, document(200_000)),
		"no stream":   r,
		"no message":  bytes.NewReader(document(200_000)),
		"nothing":     bytes.NewReader(nil),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := io.ReadAll(content)
			require.NoError(t, err)
			p := encryptWith(t, newShelf(true), k)
			require.NoError(t, p.Put(t.Context(), named("a", bytes.NewReader(want), `["crypto-service"]`, "crypto-service")))
			info, err := p.Stat(t.Context(), at("default", "a"))
			require.NoError(t, err)
			require.Equal(t, `["crypto-service"]`, info.Metadata[transformersKey])
			got, err := read(t, p, at("default", "a"))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		})
	}
}

// TestDamagedUploadsThatNameCryptoService: a stream that is cut or changed is not stored.
func TestDamagedUploadsThatNameCryptoService(t *testing.T) {
	inner := newShelf(true)
	k, behind := newKeys(t)
	p := encryptWith(t, inner, k)
	whole, err := io.ReadAll(stream(t, behind, document(200_000)))
	require.NoError(t, err)
	changed := bytes.Clone(whole)
	changed[100_000] ^= 1
	for _, content := range [][]byte{whole[:100_000], whole[:len(whole)-1], changed} {
		require.Error(t, p.Put(t.Context(), named("a", bytes.NewReader(content), `["crypto-service"]`, "crypto-service")))
		require.Empty(t, inner.objects)
	}
}

// TestRequestsThatNameCryptoService: Piko applies a request's transformers to an object that names
// none. So such a request gets what the transformer can reverse.
func TestRequestsThatNameCryptoService(t *testing.T) {
	k, behind := newKeys(t)
	p := encryptWith(t, newShelf(false), k)
	content := document(200_000)
	require.NoError(t, p.Put(t.Context(), upload("a", content)))
	params := at("default", "a")
	params.TransformConfig = &storage.TransformConfig{EnabledTransformers: []string{"crypto-service"}}
	for _, r := range []*storage.ByteRange{nil, {Start: 70_000, End: 80_000}} {
		params.ByteRange = r
		sealed, err := read(t, p, params)
		require.NoError(t, err)
		d := message.Decrypter{Keyrings: []provider.Unwrapper{behind}}
		got, pairs, err := d.Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
		require.Equal(t, provider.UseStream, pairs[provider.PairUse])
		want := content
		if r != nil {
			want = content[r.Start : r.End+1]
		}
		require.True(t, bytes.Equal(want, got))
	}
}

// forge replaces the list of Piko's transformers in a header, as somebody without a key can.
func forge(t *testing.T, sealed []byte, list string) []byte {
	key := []byte(transformersKey)
	at := bytes.Index(sealed, key)
	require.Positive(t, at)
	value := at + len(key)
	old := int(sealed[value])<<8 | int(sealed[value+1])
	forged := append(bytes.Clone(sealed[:value]), byte(len(list)>>8), byte(len(list)))
	forged = append(append(forged, list...), sealed[value+2+old:]...)
	longer := int(forged[35])<<8 | int(forged[36]) + len(list) - old // the encryption context's length
	forged[35], forged[36] = byte(longer>>8), byte(longer)
	return forged
}

// TestForgedTransformers edits the list of transformers in a stored header. Stat refuses it, and
// Get does.
func TestForgedTransformers(t *testing.T) {
	inner := newShelf(true)
	p := encrypting(t, inner)
	require.NoError(t, p.Put(t.Context(), upload("a", document(1000))))
	inner.change("default", "a", func(b []byte) []byte { return forge(t, b, `["zstd"]`) })
	_, err := p.Stat(t.Context(), at("default", "a"))
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	requireUnreadable(t, p, "default", "a")
}

// TestTransformersOfAnotherVersion swaps an object between the request that looks up its
// transformers and the one for its content.
func TestTransformersOfAnotherVersion(t *testing.T) {
	for _, options := range [][]pikokms.Option{nil, {pikokms.BindObjectName("app")}} {
		inner := newShelf(true)
		p := encrypting(t, inner, options...)
		content := document(1000)
		versions := make(map[string]shelved)
		for _, list := range []string{"[]", `["gzip"]`} {
			params := upload("a", content)
			if list != "[]" {
				params = named("a", bytes.NewReader(content), list, "gzip")
			}
			require.NoError(t, p.Put(t.Context(), params))
			versions[list] = inner.objects[place("default", "a")]
		}
		swap := func(list string) { inner.objects[place("default", "a")] = versions[list] }
		for seen, read := range map[string]string{"[]": `["gzip"]`, `["gzip"]`: "[]"} {
			swap(seen)
			_, err := p.Stat(t.Context(), at("default", "a"))
			require.NoError(t, err)
			swap(read)
			for _, r := range []*storage.ByteRange{nil, {Start: 5, End: 9}} {
				params := at("default", "a")
				params.ByteRange = r
				_, err = p.Get(t.Context(), params)
				require.ErrorIs(t, err, pikostorage.ErrReplaced, "%s, then %s", seen, read)
			}
			_, err = p.Stat(t.Context(), at("default", "a"))
			require.NoError(t, err)
			_, err = p.Get(t.Context(), at("default", "a"))
			require.NoError(t, err, "it is looked up again")
		}
	}
}

// TestCopyOfForgedTransformers copies an object that somebody has edited for the first of a copy's
// requests. The copy's list is the object's own.
func TestCopyOfForgedTransformers(t *testing.T) {
	inner := newShelf(true)
	k, _ := newKeys(t)
	require.NoError(t, encryptWith(t, inner, k, pikokms.BindObjectName("app")).Put(t.Context(), upload("a", document(1000))))
	sealed := inner.objects[place("default", "a")].content
	p := encryptWith(t, edited{inner, "a", forge(t, sealed, `["zstd"]`)}, k, pikokms.BindObjectName("app"))
	require.NoError(t, p.Copy(t.Context(), "default", "a", "b"))
	info, err := p.Stat(t.Context(), at("default", "b"))
	require.NoError(t, err)
	require.NotContains(t, info.Metadata, transformersKey)
}

// edited is a shelf on which ranges of one object, and its size, are another's.
type edited struct {
	*shelf
	key     string
	content []byte
}

func (e edited) Stat(ctx context.Context, params storage.GetParams) (*storage.ObjectInfo, error) {
	info, err := e.shelf.Stat(ctx, params)
	if err == nil && params.Key == e.key {
		info.Size = int64(len(e.content))
	}
	return info, err
}

func (e edited) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	if r := params.ByteRange; r != nil && params.Key == e.key {
		return io.NopCloser(bytes.NewReader(e.content[r.Start:min(r.End+1, int64(len(e.content)))])), nil
	}
	return e.shelf.Get(ctx, params)
}

// TestObjectsCompressedOtherwise reads objects that were stored when every compression could be
// enabled. Their size is known once they have been decompressed.
func TestObjectsCompressedOtherwise(t *testing.T) {
	k, behind := newKeys(t)
	for _, format := range []string{"zstd", "gzip", "s2"} {
		inner := newShelf(true)
		host, err := pikokms.New(pikokms.WithCryptoProvider("dev", behind), pikokms.WithDefaultCryptoProvider("dev"),
			pikokms.WithStorage(struct{ pikokms.Storage }{}), pikokms.WithEnabledTransformers(format))
		require.NoError(t, err)
		content := document(200_000)
		sealed, err := host.EncryptObject(t.Context(), "default/a", bytes.NewReader(content), map[string]string{transformersKey: "[]"})
		require.NoError(t, err)
		stored, err := io.ReadAll(sealed)
		require.NoError(t, err)
		require.NoError(t, inner.Put(t.Context(), upload("a", stored)))
		requireReadable(t, inner, encryptWith(t, inner, k), "default", "a", content)
	}
}

// TestStatRemembers: Piko asks for an object's size twice before it gets the object.
func TestStatRemembers(t *testing.T) {
	for _, native := range []bool{false, true} {
		inner := newShelf(native)
		k, behind := newKeys(t)
		p := encryptWith(t, inner, k, pikokms.WithDataKeyCache(service.CacheLimits{}))
		for _, size := range []int{1000, 2000, 2000} {
			content := document(size)
			content[0] = byte(size >> 1)
			require.NoError(t, p.Put(t.Context(), upload("a", content)))
			inner.gets = 0
			for range 3 {
				info, err := p.Stat(t.Context(), at("default", "a"))
				require.NoError(t, err)
				require.EqualValues(t, size, info.Size)
			}
			got, err := read(t, p, at("default", "a"))
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got))
			require.Equal(t, 2, inner.gets, "one look, and the content")
		}
		require.LessOrEqual(t, behind.calls.Load(), int64(3))
	}
}
