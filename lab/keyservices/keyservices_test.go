package keyservices_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
)

// opener makes providers, always on the same key.
type opener func(t *testing.T) provider.EncryptionProvider

// keyServices make two keys of each key service.
var keyServices = map[string]func(t *testing.T) [2]opener{"local": localKeys, "awskms": awsKeys, "gcpkms": gcpKeys, "vault": vaultKeys}

func localKeys(t *testing.T) (keys [2]opener) {
	dir := t.TempDir()
	for i := range keys {
		name := fmt.Sprintf("key-%d", i)
		require.NoError(t, local.Generate(filepath.Join(dir, name)))
		keys[i] = func(t *testing.T) provider.EncryptionProvider {
			p, err := local.NewProvider(local.Config{KeyFile: filepath.Join(dir, name), Name: name})
			require.NoError(t, err)
			return p
		}
	}
	return keys
}

func awsKeys(t *testing.T) (keys [2]opener) {
	server := kmstest.NewServer(t)
	for i := range keys {
		key := server.CreateKey(kmstest.Key{})
		keys[i] = func(t *testing.T) provider.EncryptionProvider {
			client := kms.New(kms.Options{
				Region: key.Region, BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
			})
			p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
			require.NoError(t, err)
			return p
		}
	}
	return keys
}

func gcpKeys(t *testing.T) (keys [2]opener) {
	server := gcpkmstest.NewServer(t)
	for i := range keys {
		name := fmt.Sprintf("key-%d", i)
		server.CreateKey(gcpkmstest.Key{Name: name})
		keys[i] = func(t *testing.T) provider.EncryptionProvider {
			p, err := gcpkms.NewProvider(t.Context(), gcpkms.Config{
				ProjectID: gcpkmstest.Project, Location: gcpkmstest.Location, KeyRing: gcpkmstest.KeyRing, KeyName: name, Endpoint: server.URL,
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			return p
		}
	}
	return keys
}

// made counts the keys of the server, which all tests share.
var made atomic.Int64

func vaultKeys(t *testing.T) (keys [2]opener) {
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
	for i := range keys {
		name := fmt.Sprintf("key-%d", made.Add(1))
		_, err = client.Logical().Write(mount+"/keys/"+name, nil)
		require.NoError(t, err)
		keys[i] = func(t *testing.T) provider.EncryptionProvider {
			p, err := vault.NewProvider(t.Context(), vault.Config{Address: config.Address, Mount: mount, Key: name, Token: emulator.OpenBaoToken})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			return p
		}
	}
	return keys
}

func TestConformance(t *testing.T) {
	for name, makeKeys := range keyServices {
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
	for from, makeKeys := range keyServices {
		for to, makeOthers := range keyServices {
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
