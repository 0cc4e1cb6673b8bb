package pikostorage

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"
	"piko.sh/piko/wdk/storage/storage_provider_disk"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

type testKeys struct {
	crypto.EncryptionProvider
	behind provider.EncryptionProvider
}

func (k testKeys) Unwrap() provider.EncryptionProvider { return k.behind }

type bare struct{ storage.ProviderPort }

// TestEncryptAll: each provider that the options before it have registered is encrypted, and Piko's
// assets are not.
func TestEncryptAll(t *testing.T) {
	behind, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: "dev"})
	require.NoError(t, err)
	keys := testKeys{behind: behind}
	disk, bucket, system := bare{}, bare{}, bare{}
	decorated := Encrypt(bare{}, keys)
	apply := func(options ...piko.Option) map[string]storage.ProviderPort {
		var c piko.Container
		for _, o := range options {
			o(&c)
		}
		providers, err := providersOf(&c)
		require.NoError(t, err)
		return providers
	}

	got := apply(
		piko.WithStorageProvider("default", disk), piko.WithStorageProvider("media", bucket),
		piko.WithStorageProvider("decorated", decorated), piko.WithSystemStorageProvider(system),
		EncryptAll(keys, pikokms.BindObjectName("app")),
	)
	require.Len(t, got, 4)
	for _, name := range []string{"default", "media"} {
		e := got[name].(*encrypted)
		require.Equal(t, bare{}, e.inner)
		require.True(t, e.host.BindsNames())
	}
	require.Same(t, decorated, got["decorated"])
	require.Equal(t, system, got["system"])

	got = apply(piko.WithStorageProvider("default", disk), EncryptAll(keys), EncryptAll(keys))
	require.Equal(t, filepath.Join(".piko", "blobs"), got["system"].(storage_provider_disk.Declared).Config.BaseDirectory)
	require.Equal(t, bare{}, got["default"].(*encrypted).inner, "once")

	require.PanicsWithValue(t, "pikostorage.EncryptAll: no storage provider is registered by the options before it; "+
		"register one with piko.WithStorageProvider", func() { apply(EncryptAll(keys)) })
	require.Panics(t, func() { apply(piko.WithStorageProvider("default", disk), EncryptAll(testKeys{})) })
}
