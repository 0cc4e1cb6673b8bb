package pikostorage_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/pikostorage"
)

// pipeline does to a provider what Piko's own pipeline of transformers does. It names the
// transformers that it applied in the metadata, and reverses those that the metadata name.
type pipeline struct {
	storage.ProviderPort
	transformers map[string]storage.StreamTransformerPort
}

// pikos returns that pipeline over a provider. Its crypto-service writes messages under the same
// key as pikostorage, as it does with the drop-in providers.
func pikos(p storage.ProviderPort, k keys) *pipeline {
	crypto, err := pikostorage.NewTransformer("crypto-service", pikokms.WithCryptoProvider("kms", k.behind))
	if err != nil {
		panic(err)
	}
	return &pipeline{p, map[string]storage.StreamTransformerPort{
		"gzip":           gzipped{},
		"crypto-service": crypto,
	}}
}

func (p *pipeline) put(ctx context.Context, params *storage.PutParams, names ...string) error {
	for _, name := range names {
		var err error
		if params.Reader, err = p.transformers[name].Transform(ctx, params.Reader, nil); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		list, err := json.Marshal(names)
		if err != nil {
			return err
		}
		params.Size = -1
		params.Metadata = map[string]string{"x-piko-transformers": string(list)}
		params.TransformConfig = &storage.TransformConfig{EnabledTransformers: names}
	}
	return p.Put(ctx, params)
}

// Get overrides the provider's.
func (p *pipeline) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	info, err := p.Stat(ctx, params)
	if err != nil {
		return nil, err
	}
	var names []string
	if list := info.Metadata["x-piko-transformers"]; list != "" {
		if err := json.Unmarshal([]byte(list), &names); err != nil {
			return nil, err
		}
	}
	r, err := p.ProviderPort.Get(ctx, params)
	if err != nil {
		return nil, err
	}
	var content io.Reader = r
	for i := len(names) - 1; i >= 0; i-- {
		if content, err = p.transformers[names[i]].Reverse(ctx, content, nil); err != nil {
			return nil, err
		}
	}
	return struct {
		io.Reader
		io.Closer
	}{content, r}, nil
}

type gzipped struct{}

func (gzipped) Name() string                  { return "gzip" }
func (gzipped) Type() storage.TransformerType { return storage.TransformerCompression }
func (gzipped) Priority() int                 { return 100 }

func (gzipped) Transform(_ context.Context, input io.Reader, _ any) (io.Reader, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.Copy(w, input); err != nil {
		return nil, err
	}
	return &b, w.Close()
}

func (gzipped) Reverse(_ context.Context, input io.Reader, _ any) (io.Reader, error) {
	return gzip.NewReader(input)
}

// TestObjectsFromBefore reads what an application stored before it encrypted, and encrypts it by a
// migration of the repository onto itself.
func TestObjectsFromBefore(t *testing.T) {
	for name, transformers := range map[string][]string{
		"plaintext": nil, "compressed": {"gzip"}, "encrypted": {"crypto-service"}, "both": {"gzip", "crypto-service"},
	} {
		for _, options := range [][]pikokms.Option{nil, {pikokms.BindObjectName("app")}} {
			t.Run(name, func(t *testing.T) {
				inner := newShelf(false)
				k, _ := newKeys(t)
				content := document(200_000)
				require.NoError(t, pikos(inner, k).put(t.Context(), upload("a", content), transformers...))
				before := inner.objects[place("default", "a")]

				closed := pikos(encryptWith(t, inner, k, options...), k)
				_, err := closed.Get(t.Context(), at("default", "a"))
				require.ErrorIs(t, err, pikokms.ErrPlaintext)

				p := pikos(encryptWith(t, inner, k, append(options, pikokms.AllowPlaintext())...), k)
				got, err := read(t, p, at("default", "a"))
				require.NoError(t, err)
				require.True(t, bytes.Equal(content, got))
				require.Equal(t, before, inner.objects[place("default", "a")], "reading changes nothing")

				// Copies stay what they were, and encryption does not make them authentic.
				require.NoError(t, p.Copy(t.Context(), "default", "a", "b"))
				require.Equal(t, before.content, inner.objects[place("default", "b")].content)
				require.NoError(t, p.Remove(t.Context(), at("default", "b")))

				for range 2 { // what is encrypted already is encrypted anew
					require.NoError(t, migrate(t.Context(), p, p, "a"))
					requireEncrypted(t, inner)
					require.NotEqual(t, before, inner.objects[place("default", "a")])
					got, err = read(t, closed, at("default", "a"))
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, got), "%d bytes", len(got))
				}
			})
		}
	}
}

// TestNamedTransformers uploads through transformers of Piko and through encryption.
func TestNamedTransformers(t *testing.T) {
	for _, options := range [][]pikokms.Option{nil, {pikokms.BindObjectName("app")}} {
		for _, names := range [][]string{{"gzip"}, {"crypto-service"}, {"gzip", "crypto-service"}} {
			inner := newShelf(false)
			k, _ := newKeys(t)
			p := pikos(encryptWith(t, inner, k, options...), k)
			content := document(200_000)
			require.NoError(t, p.put(t.Context(), upload("a", content), names...))
			requireEncrypted(t, inner)
			require.NoError(t, p.Copy(t.Context(), "default", "a", "b"))
			require.NoError(t, p.Rename(t.Context(), "default", "b", "c"))
			for _, key := range []string{"a", "c"} {
				got, err := read(t, p, at("default", key))
				require.NoError(t, err)
				require.True(t, bytes.Equal(content, got), "the disk provider loses metadata, and the names with them")
			}
		}
	}
}

// TestNamedTransformersOfABatch: a native batch has no metadata to name transformers in.
func TestNamedTransformersOfABatch(t *testing.T) {
	inner := newShelf(true)
	k, _ := newKeys(t)
	p := pikos(encryptWith(t, inner, k), k)
	content := document(200_000)
	transformed, err := gzipped{}.Transform(t.Context(), bytes.NewReader(content), nil)
	require.NoError(t, err)
	_, err = p.PutMany(t.Context(), &storage.PutManyParams{
		Repository: "default", TransformConfig: &storage.TransformConfig{EnabledTransformers: []string{"gzip"}},
		Objects: []storage.PutObjectSpec{{Key: "a", Reader: transformed, Size: -1, ContentType: "text/plain"}},
	})
	require.NoError(t, err)
	got, err := read(t, p, at("default", "a"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// TestEditedMetadata edits the names of transformers in the metadata. They are not believed.
func TestEditedMetadata(t *testing.T) {
	inner := newShelf(false)
	k, _ := newKeys(t)
	p := pikos(encryptWith(t, inner, k, pikokms.AllowPlaintext()), k)
	archive, err := gzipped{}.Transform(t.Context(), bytes.NewReader(document(1000)), nil)
	require.NoError(t, err)
	content, err := io.ReadAll(archive)
	require.NoError(t, err)
	require.NoError(t, p.put(t.Context(), upload("archive", content)))
	require.NoError(t, p.put(t.Context(), upload("compressed", content), "gzip"))
	for _, list := range []string{"", "[]", `["gzip"]`, `["crypto-service"]`, "no JSON"} {
		for _, key := range []string{"archive", "compressed"} {
			o := inner.objects[place("default", key)]
			o.metadata = map[string]string{"x-piko-transformers": list}
			inner.objects[place("default", key)] = o
			got, err := read(t, p, at("default", key))
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got), "%s, %s", key, list)
		}
	}
}

// TestForeignMessages: a message under the same key that was not written here, such as a stream of
// Piko's crypto service, is no object of its own.
func TestForeignMessages(t *testing.T) {
	inner := newShelf(false)
	k, _ := newKeys(t)
	p := pikos(encryptWith(t, inner, k, pikokms.AllowPlaintext()), k)
	content := document(1000)
	require.NoError(t, pikos(inner, k).put(t.Context(), upload("a", content), "crypto-service"))
	got, err := read(t, p.ProviderPort, at("default", "a"))
	require.NoError(t, err)
	require.Equal(t, inner.objects[place("default", "a")].content, got, "it goes to Piko's transformer as it is")
	info, err := p.Stat(t.Context(), at("default", "a"))
	require.NoError(t, err)
	require.Equal(t, `["crypto-service"]`, info.Metadata[transformersKey])
}
