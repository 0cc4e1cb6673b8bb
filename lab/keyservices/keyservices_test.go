package keyservices_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
)

// makers make two keys of each key service, by their URLs. Their credentials are in the
// environment.
var makers = map[string]func(t *testing.T) [2]string{
	local.KeyService.Scheme: localKeys, awskms.KeyService.Scheme: awsKeys, azurekeyvault.KeyService.Scheme: azureKeys, gcpkms.KeyService.Scheme: gcpKeys, vault.KeyService.Scheme: vaultKeys,
	branchkey.KeyService.Scheme: branchKeys,
}

// opener makes keyrings, always on the same key.
type opener func(t *testing.T) provider.EncryptionProvider

// keyServices make two keys of each key service that encrypts.
func keyServices(t *testing.T) map[string]func(t *testing.T) [2]opener {
	byScheme := make(map[string]func(t *testing.T) [2]opener)
	for _, service := range keyservices.All() {
		if service.Scheme == awskms.DiscoveryKeyService.Scheme {
			continue // It only decrypts.
		}
		makes := makers[service.Scheme]
		require.NotNil(t, makes, "no test makes keys of %s", service.Scheme)
		byScheme[service.Scheme] = func(t *testing.T) (openers [2]opener) {
			for i, url := range makes(t) {
				openers[i] = func(t *testing.T) provider.EncryptionProvider { return open(t, url) }
			}
			return openers
		}
	}
	return byScheme
}

func open(t *testing.T, url string) provider.EncryptionProvider {
	key, err := keyurl.Parse(url, keyservices.All()...)
	require.NoError(t, err)
	keyring, err := key.Open(t.Context(), keyurl.Options{})
	require.NoError(t, err)
	if closer, ok := keyring.(io.Closer); ok {
		t.Cleanup(func() { require.NoError(t, closer.Close()) })
	}
	return keyring.(provider.EncryptionProvider)
}

func localKeys(t *testing.T) (urls [2]string) {
	dir := filepath.ToSlash(t.TempDir())
	for i := range urls {
		path := fmt.Sprintf("%s/key-%d", dir, i)
		require.NoError(t, local.Generate(path))
		urls[i] = fmt.Sprintf("local:%s?name=key-%d", path, i)
	}
	return urls
}

func awsKeys(t *testing.T) (urls [2]string) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server := kmstest.NewServer(t)
	for i := range urls {
		urls[i] = "awskms:///" + server.CreateKey(kmstest.Key{}).ARN + "?endpoint=" + server.URL
	}
	return urls
}

func azureKeys(t *testing.T) (urls [2]string) {
	server := azurekeyvaulttest.NewServer(t)
	for i := range urls {
		urls[i] = "azurekeyvault://test-vault/" + server.CreateKey(azurekeyvaulttest.Key{}) + "?endpoint=" + server.URL
	}
	return urls
}

func gcpKeys(t *testing.T) (urls [2]string) {
	server := gcpkmstest.NewServer(t)
	for i := range urls {
		urls[i] = "gcpkms://" + server.CreateKey(gcpkmstest.Key{Name: fmt.Sprintf("key-%d", i)}) + "?endpoint=" + server.URL
	}
	return urls
}

// made counts the keys of the server, which all tests share.
var made atomic.Int64

func vaultKeys(t *testing.T) (urls [2]string) {
	t.Setenv("VAULT_TOKEN", emulator.OpenBaoToken)
	config := api.DefaultConfig()
	require.NoError(t, config.Error)
	config.Address = emulator.OpenBao(t)
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(emulator.OpenBaoToken)
	const mount = "transit"
	if _, err = client.Logical().Write("sys/mounts/"+mount, map[string]any{"type": "transit"}); made.Load() == 0 {
		require.NoError(t, err)
	}
	for i := range urls {
		name := fmt.Sprintf("key-%d", made.Add(1))
		_, err = client.Logical().Write(mount+"/keys/"+name, nil)
		require.NoError(t, err)
		urls[i] = fmt.Sprintf("vault://%s/%s?address=%s", mount, name, config.Address)
	}
	return urls
}

func branchKeys(t *testing.T) (urls [2]string) {
	dir := filepath.ToSlash(t.TempDir())
	require.NoError(t, local.Generate(dir+"/master"))
	table := fmt.Sprintf("branchkey:%s/table?master=local:%s/master", dir, dir)
	u, err := url.Parse(table)
	require.NoError(t, err)
	c, err := branchkey.ParseURL(u)
	require.NoError(t, err)
	store, err := branchkey.NewStore(t.Context(), c)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.CreateTable(t.Context()))
	for i := range urls {
		id := fmt.Sprintf("tenant-%d", i)
		_, err := store.Create(t.Context(), id, map[string]string{"tenant": id})
		require.NoError(t, err)
		urls[i] = table + "&id=" + id
	}
	return urls
}

func TestConformance(t *testing.T) {
	for name, makeKeys := range keyServices(t) {
		t.Run(name, func(t *testing.T) {
			keys := makeKeys(t)
			providertest.Run(t, keys[0], keys[1])
		})
	}
}

// stored returns what is in the files of a folder.
func stored(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		all.Write(content)
		return err
	}))
	return all.String()
}

// Objects and strings move from each key service to each other one, and only then are they read
// without the first.
func TestFromOneKeyServiceToAnother(t *testing.T) {
	object := []byte(strings.Repeat("An object of several frames. ", 10_000))
	const secret, text = "An object of several frames.", "a string"
	for from, makeKeys := range keyServices(t) {
		for to, makeOthers := range keyServices(t) {
			t.Run(from+" to "+to, func(t *testing.T) {
				keys := makeKeys(t)
				others := keys
				if from != to {
					others = makeOthers(t)
				}
				old, renewed := keys[0](t), others[1](t)
				dir := t.TempDir()
				folder, err := folderstorage.New(dir)
				require.NoError(t, err)
				defer folder.Close()
				host, err := pikokms.New(
					pikokms.WithStorage(folder), pikokms.WithCryptoProvider("old", old), pikokms.WithCryptoProvider("new", renewed),
					pikokms.WithDefaultCryptoProvider("old"),
				)
				require.NoError(t, err)
				defer host.Close()
				only, err := pikokms.New(pikokms.WithStorage(folder), pikokms.WithCryptoProvider("new", renewed), pikokms.WithDefaultCryptoProvider("new"))
				require.NoError(t, err)
				defer only.Close()

				ctx, pairs := t.Context(), map[string]string{"tenant": "42"}
				require.NoError(t, host.Put(ctx, "reports/2026.txt", bytes.NewReader(object)))
				encrypted, err := host.Encrypt(ctx, text, pairs)
				require.NoError(t, err)
				requireObject(t, host, object)
				require.NotContains(t, stored(t, dir), secret)
				_, err = only.Get(ctx, "reports/2026.txt")
				require.ErrorIs(t, err, provider.ErrUntrustedKey)

				require.NoError(t, host.SetDefaultCryptoProvider("new"))
				require.NoError(t, host.Rewrap(ctx, "reports/2026.txt"))
				moved, err := host.ReEncrypt(ctx, encrypted, pairs)
				require.NoError(t, err)
				requireObject(t, only, object)
				require.NotContains(t, stored(t, dir), secret)
				decrypted, err := only.Decrypt(ctx, moved, pairs)
				require.NoError(t, err)
				require.Equal(t, text, decrypted)
				_, err = only.Decrypt(ctx, moved, nil)
				require.Error(t, err)
				decrypted, again, err := host.DecryptAndReEncrypt(ctx, moved, pairs)
				require.NoError(t, err)
				require.Equal(t, text, decrypted)
				require.Equal(t, moved, again, "it stays as it is")
			})
		}
	}
}

func requireObject(t *testing.T, h *pikokms.Host, want []byte) {
	t.Helper()
	r, err := h.Get(t.Context(), "reports/2026.txt")
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.True(t, bytes.Equal(got, want))
}
