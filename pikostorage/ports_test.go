package pikostorage_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikostorage"
)

// TestOptionalPorts: a provider describes itself if the inner one does. It lists no keys, since
// Piko's garbage collector deletes what is listed.
func TestOptionalPorts(t *testing.T) {
	type describing interface {
		GetProviderType() string
		GetProviderMetadata() map[string]any
	}
	bare := newShelf(true)
	for _, c := range []struct {
		inner     storage.ProviderPort
		describes bool
	}{
		{bare, false},
		{listed{bare}, false},
		{described{bare}, true},
		{struct {
			listed
			described
			*shelf
		}{listed{bare}, described{bare}, bare}, true},
	} {
		p := encrypting(t, c.inner)
		_, lists := p.(interface {
			ListKeys(ctx context.Context, repository string) ([]string, error)
		})
		require.False(t, lists)
		d, describes := p.(describing)
		require.Equal(t, c.describes, describes)
		require.Equal(t, c.inner, p.(interface{ Unwrap() storage.ProviderPort }).Unwrap(), "which lists keys, if it can")
		require.True(t, p.SupportsMultipart() && p.SupportsBatchOperations() && p.SupportsRetry() && p.SupportsRateLimiting())
		require.False(t, p.SupportsCircuitBreaking())
		if describes {
			require.Equal(t, "shelf", d.GetProviderType())
			require.Equal(t, map[string]any{"version": "1", "supports_presigned": false, "encryption": "local_aes_gcm"}, d.GetProviderMetadata())
			require.Equal(t, true, described{bare}.GetProviderMetadata()["supports_presigned"])
		}
	}
}

// TestPresignedURLs: Piko signs its own, and a backend's are refused.
func TestPresignedURLs(t *testing.T) {
	p := encrypting(t, newShelf(true))
	require.False(t, p.SupportsPresignedURLs())
	_, err := p.PresignURL(t.Context(), storage.PresignParams{Key: "a"})
	require.ErrorIs(t, err, pikostorage.ErrPresigned)
	_, err = p.PresignDownloadURL(t.Context(), storage.PresignDownloadParams{Key: "a"})
	require.ErrorIs(t, err, pikostorage.ErrPresigned)
}

// TestRemove removes one object and several.
func TestRemove(t *testing.T) {
	inner := newShelf(false)
	p := encrypting(t, inner)
	for _, key := range []string{"a", "b", "c"} {
		require.NoError(t, p.Put(t.Context(), upload(key, document(10))))
	}
	require.NoError(t, p.Remove(t.Context(), at("default", "a")))
	result, err := p.RemoveMany(t.Context(), storage.RemoveManyParams{Repository: "default", Keys: []string{"b"}})
	require.NoError(t, err)
	require.Equal(t, 1, result.TotalSuccessful)
	require.Len(t, inner.objects, 1)
	exists, err := p.Exists(t.Context(), at("default", "a"))
	require.NoError(t, err)
	require.False(t, exists)
	_, err = p.Get(t.Context(), at("default", "a"))
	require.ErrorContains(t, err, "not found")
}

// TestClose: Piko closes a provider several times.
func TestClose(t *testing.T) {
	inner := newShelf(false)
	p := encrypting(t, inner)
	for range 3 {
		require.NoError(t, p.Close(t.Context()))
	}
	require.Equal(t, 1, inner.closes)
}

// TestConfiguration: an application whose storage can't be encrypted does not start.
func TestConfiguration(t *testing.T) {
	k, _ := newKeys(t)
	require.PanicsWithValue(t, "pikostorage.Encrypt: invalid pikokms configuration: no storage provider to encrypt", func() {
		pikostorage.Encrypt(nil, k)
	})
	require.Panics(t, func() { pikostorage.Encrypt(newShelf(false), nil) })
	require.Panics(t, func() { pikostorage.Encrypt(newShelf(false), k, pikokms.WithEnabledTransformers("rot13")) })
	for _, format := range []string{"zstd", "gzip", "s2"} {
		_, err := pikostorage.New(newShelf(false), pikokms.WithCryptoProvider("dev", k.behind), pikokms.WithDefaultCryptoProvider("dev"),
			pikokms.WithEnabledTransformers(format))
		require.ErrorIs(t, err, pikokms.ErrConfig)
		require.ErrorContains(t, err, "enable zstd-seekable instead")
	}
	_, err := pikostorage.Keys(struct{ crypto.EncryptionProvider }{})
	require.ErrorIs(t, err, pikokms.ErrConfig)
	require.ErrorContains(t, err, "go.mod")
	_, err = pikostorage.New(newShelf(false))
	require.ErrorIs(t, err, pikokms.ErrConfig)
	_, err = pikostorage.New(newShelf(false), pikokms.WithMessages(message.Encrypter{Keyring: k.behind}, message.Decrypter{}))
	require.ErrorIs(t, err, pikokms.ErrConfig)
	p, err := pikostorage.New(newShelf(false), pikokms.WithCryptoProvider("dev", k.behind), pikokms.WithDefaultCryptoProvider("dev"))
	require.NoError(t, err)
	require.NoError(t, p.Put(t.Context(), upload("a", document(10))))
}
