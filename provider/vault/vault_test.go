package vault_test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/exported"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
)

func TestMain(m *testing.M) {
	// The developer's own server and token are no matter of the tests.
	for _, name := range []string{"VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "BAO_ADDR", "BAO_TOKEN", "BAO_NAMESPACE"} {
		_ = os.Unsetenv(name)
	}
	// Vault's client looks only once where the home folder is, so it is one of all tests.
	home, err := os.MkdirTemp("", "pikokms-vault-")
	if err != nil {
		panic(err)
	}
	os.Setenv("HOME", home)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(home)
		os.Exit(code)
	}))
}

func TestExported(t *testing.T) { exported.Test(t) }

// bao is a server with a transit engine of one test.
type bao struct {
	t      testing.TB
	url    string
	client *api.Client
	mount  string
}

var mounts atomic.Int64

// newBao returns a server of OpenBao, or else one in the process with its rules.
func newBao(t testing.TB) *bao {
	t.Helper()
	if emulator.HasOpenBao() {
		return newOpenBao(t)
	}
	return baoAt(t, newTransit(t))
}

// newOpenBao returns a server of OpenBao. Without one, the test is skipped.
func newOpenBao(t testing.TB) *bao {
	t.Helper()
	return baoAt(t, emulator.OpenBao(t))
}

func baoAt(t testing.TB, url string) *bao {
	t.Helper()
	b := &bao{t, url, newClient(t, url), fmt.Sprintf("transit-%d", mounts.Add(1))}
	b.write("sys/mounts/"+b.mount, map[string]any{"type": "transit"})
	return b
}

// newClient is a client of the root.
func newClient(t testing.TB, url string) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	require.NoError(t, config.Error)
	config.Address = url
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(emulator.OpenBaoToken)
	t.Cleanup(config.HttpClient.CloseIdleConnections)
	return client
}

func (b *bao) write(path string, data map[string]any) *api.Secret {
	b.t.Helper()
	answer, err := b.client.Logical().Write(path, data)
	require.NoError(b.t, err)
	return answer
}

// createKey makes a key and returns its configuration, with the root's token.
func (b *bao) createKey(name string, settings map[string]any) vault.Config {
	b.t.Helper()
	b.write(b.mount+"/keys/"+name, settings)
	return vault.Config{Address: b.url, Mount: b.mount, Key: name, Token: emulator.OpenBaoToken}
}

// policy makes a policy from paths with their capability, and returns a token of it.
func (b *bao) policy(settings map[string]any, paths map[string]string) string {
	b.t.Helper()
	name := fmt.Sprintf("policy-%d", mounts.Add(1))
	var text strings.Builder
	for path, capability := range paths {
		fmt.Fprintf(&text, "path %q { capabilities = [%q] }\n", path, capability)
	}
	b.write("sys/policies/acl/"+name, map[string]any{"policy": text.String()})
	granted := map[string]any{"policies": []string{name}}
	for setting, value := range settings {
		granted[setting] = value
	}
	return b.write("auth/token/create", granted).Auth.ClientToken
}

func open(t testing.TB, c vault.Config) provider.Provider {
	t.Helper()
	p, err := vault.NewProvider(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestConformance(t *testing.T) {
	b := newBao(t)
	for _, kind := range []string{"aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"} {
		t.Run(kind, func(t *testing.T) {
			one, two := b.createKey(kind+"-1", map[string]any{"type": kind}), b.createKey(kind+"-2", map[string]any{"type": kind})
			providertest.Run(t,
				func(t *testing.T) provider.EncryptionProvider { return open(t, one) },
				func(t *testing.T) provider.EncryptionProvider { return open(t, two) })
		})
	}
}

func seal(t testing.TB, p provider.Keyring, pairs map[string]string) []byte {
	t.Helper()
	sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("hello"), pairs)
	require.NoError(t, err)
	return sealed
}

func unseal(t testing.TB, p provider.Keyring, sealed []byte) error {
	t.Helper()
	plaintext, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
	if err == nil {
		require.Equal(t, "hello", string(plaintext))
	}
	return err
}

// What a message says of its key is written down in docs/FORMAT.md.
func TestFormat(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), map[string]string{"tenant": "42", "a": "b"})
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	require.Len(t, h.EncryptedDataKeys, 1)
	wrapped := h.EncryptedDataKeys[0]
	require.Equal(t, "vault-transit", wrapped.ProviderID)
	require.Equal(t, b.mount+"/app-data", string(wrapped.ProviderInfo))
	require.True(t, strings.HasPrefix(string(wrapped.Ciphertext), "vault:v1:"))

	// Another client opens the ciphertext with the serialised encryption context.
	additional := []byte("\x00\x02\x00\x01a\x00\x01b\x00\x06tenant\x00\x0242")
	opened := b.write(b.mount+"/decrypt/app-data", map[string]any{"ciphertext": string(wrapped.Ciphertext), "associated_data": additional})
	require.Len(t, opened.Data["plaintext"], 44)
	_, err = b.client.Logical().Write(b.mount+"/decrypt/app-data", map[string]any{"ciphertext": string(wrapped.Ciphertext)})
	require.Error(t, err, "the encryption context is bound")
}

// Old versions decrypt what they encrypted, until min_decryption_version excludes them.
func TestRotation(t *testing.T) {
	b := newBao(t)
	c := b.createKey("rotated", nil)
	p := open(t, c)
	pairs := map[string]string{"tenant": "42"}
	old := seal(t, p, pairs)
	b.write(b.mount+"/keys/rotated/rotate", nil)
	current := seal(t, p, pairs)
	require.Contains(t, string(current), "vault:v2:")
	require.NoError(t, unseal(t, p, old))
	require.NoError(t, unseal(t, p, current))

	b.write(b.mount+"/keys/rotated/config", map[string]any{"min_decryption_version": 2})
	err := unseal(t, p, old)
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
	require.ErrorContains(t, err, "min_decryption_version")
	require.NoError(t, unseal(t, p, current))
	info, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "2", info.Metadata["latest_version"])
	require.Equal(t, "2", info.Metadata["min_decryption_version"])

	// Before that, messages are moved to the newest version by decryption and encryption.
	b.write(b.mount+"/keys/rotated/config", map[string]any{"min_decryption_version": 1})
	p2 := open(t, c)
	moved, err := message.Rewrap(t.Context(), strings.NewReader(string(old)), &message.Decrypter{Keyrings: []provider.Unwrapper{p2}}, &message.Encrypter{Keyring: p2}, nil)
	require.NoError(t, err)
	var renewed strings.Builder
	_, err = moved.WriteTo(&renewed)
	require.NoError(t, err)
	requireCurrent := func(want bool, sealed []byte) {
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		got, err := (&message.Encrypter{Keyring: p2}).IsCurrent(t.Context(), h, nil)
		require.NoError(t, err)
		require.Equal(t, want, got, message.KeyVersion(h.EncryptedDataKeys[0]))
	}
	requireCurrent(false, old)
	requireCurrent(true, current)
	requireCurrent(true, []byte(renewed.String()))
	b.write(b.mount+"/keys/rotated/config", map[string]any{"min_decryption_version": 2})
	require.NoError(t, unseal(t, p2, []byte(renewed.String())))
	require.ErrorIs(t, unseal(t, p2, old), provider.ErrKeyDisabled)
}

// Another key has the path of the one before, as one on another server does.
func TestIsCurrentUnderAnotherKeyOfThePath(t *testing.T) {
	b := newBao(t)
	c := b.createKey("twice", nil)
	isCurrent := func(c vault.Config, sealed []byte) bool {
		h, _, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, "v1", message.KeyVersion(h.EncryptedDataKeys[0]))
		got, err := (&message.Encrypter{Keyring: open(t, c)}).IsCurrent(t.Context(), h, nil)
		require.NoError(t, err)
		return got
	}
	old := seal(t, open(t, c), map[string]string{"tenant": "42"})
	require.True(t, isCurrent(c, old))

	b.write("sys/policies/acl/"+b.mount, map[string]any{
		"policy": `path "` + b.mount + `/datakey/plaintext/twice" { capabilities = ["update"] }
			path "` + b.mount + `/encrypt/twice" { capabilities = ["update"] }
			path "` + b.mount + `/keys/twice" { capabilities = ["read"] }`,
	})
	writer := b.write("auth/token/create", map[string]any{"policies": []string{b.mount}})
	encrypts := c
	encrypts.Token = writer.Auth.ClientToken
	require.False(t, isCurrent(encrypts, old), "who may not decrypt can't tell")

	b.write(b.mount+"/keys/twice/config", map[string]any{"deletion_allowed": true})
	_, err := b.client.Logical().Delete(b.mount + "/keys/twice")
	require.NoError(t, err)
	c = b.createKey("twice", nil)
	require.False(t, isCurrent(c, old))
	require.True(t, isCurrent(c, seal(t, open(t, c), map[string]string{"tenant": "42"})))
}

func TestRefusedKeys(t *testing.T) {
	b := newBao(t)
	for name, c := range map[string]struct {
		settings map[string]any
		text     string
	}{
		"derived":    {map[string]any{"derived": true}, "derived"},
		"convergent": {map[string]any{"derived": true, "convergent_encryption": true}, "convergent"},
		"rsa":        {map[string]any{"type": "rsa-2048"}, "rsa-2048"},
		"ed25519":    {map[string]any{"type": "ed25519"}, "ed25519"},
		"ecdsa":      {map[string]any{"type": "ecdsa-p256"}, "ecdsa-p256"},
		"hmac":       {map[string]any{"type": "hmac", "key_size": 32}, "hmac"},
	} {
		t.Run(name, func(t *testing.T) {
			config := b.createKey(name, c.settings)
			_, err := vault.NewProvider(t.Context(), config)
			require.ErrorIs(t, err, provider.ErrKeyUsage)
			require.ErrorContains(t, err, c.text)

			// So it is at the first use, and where the policy does not permit to read the key.
			config.CheckLater = true
			_, err = open(t, config).GenerateDataKey(t.Context(), map[string]string{"a": "b"})
			require.ErrorIs(t, err, provider.ErrKeyUsage)
			config.CheckLater = false
			for _, path := range []string{"/datakey/plaintext/", "/decrypt/"} {
				config.Token = b.policy(nil, map[string]string{b.mount + path + name: "update"})
				_, err = vault.NewProvider(t.Context(), config)
				require.ErrorIs(t, err, provider.ErrKeyUsage, path)
			}
		})
	}
}

func TestSoftDeleted(t *testing.T) {
	b := newBao(t)
	c := b.createKey("deleted", nil)
	p := open(t, c)
	sealed := seal(t, p, nil)
	_, err := b.client.Logical().Delete(b.mount + "/keys/deleted/soft-delete")
	require.NoError(t, err)
	require.ErrorIs(t, unseal(t, p, sealed), provider.ErrKeyPendingDeletion)
	info, err := p.GetKeyInfo(t.Context(), p.KeyID())
	require.NoError(t, err)
	require.ErrorIs(t, info.Err, provider.ErrKeyPendingDeletion)
	_, err = vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyPendingDeletion)
	b.write(b.mount+"/keys/deleted/soft-delete-restore", nil)
	require.NoError(t, unseal(t, p, sealed))
}

func TestMissing(t *testing.T) {
	b := newBao(t)
	c := b.createKey("there", nil)
	p := open(t, c)
	sealed := seal(t, p, nil)
	b.write(b.mount+"/keys/there/config", map[string]any{"deletion_allowed": true})
	_, err := b.client.Logical().Delete(b.mount + "/keys/there")
	require.NoError(t, err)
	require.ErrorIs(t, unseal(t, p, sealed), provider.ErrKeyNotFound)
	_, err = vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	c.Mount = "nowhere"
	_, err = vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.ErrorContains(t, err, "no transit engine is mounted")
}

func TestNamespace(t *testing.T) {
	b := newBao(t)
	namespace := fmt.Sprintf("team-%d", mounts.Add(1))
	b.write("sys/namespaces/"+namespace, nil)
	within := b.client.WithNamespace(namespace)
	_, err := within.Logical().Write("sys/mounts/deep/transit", map[string]any{"type": "transit"})
	require.NoError(t, err)
	_, err = within.Logical().Write("deep/transit/keys/app-data", nil)
	require.NoError(t, err)
	c := vault.Config{Address: b.url, Namespace: namespace + "/", Mount: "/deep/transit/", Key: "app-data", Token: emulator.OpenBaoToken}
	p := open(t, c)
	require.Equal(t, namespace+"/deep/transit/app-data", p.KeyID())
	sealed := seal(t, p, nil)
	require.NoError(t, unseal(t, p, sealed))
	require.Contains(t, string(sealed), p.KeyID())

	c.Namespace = ""
	_, err = vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	t.Setenv("BAO_NAMESPACE", namespace)
	require.NoError(t, unseal(t, open(t, c), sealed))
}

func TestOnlyTheConfiguredKeyIsAskedAbout(t *testing.T) {
	b := newBao(t)
	one, two := open(t, b.createKey("one", nil)), open(t, b.createKey("two", nil))
	sealed := seal(t, two, nil)
	require.ErrorIs(t, unseal(t, one, sealed), provider.ErrUntrustedKey)
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	for _, info := range []string{"", one.KeyID() + "/", "/" + one.KeyID(), "x/../" + one.KeyID(), b.mount + "/keys/one"} {
		wrapped := h.EncryptedDataKeys[0]
		wrapped.ProviderInfo = []byte(info)
		_, err := one.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
	wrapped := h.EncryptedDataKeys[0]
	wrapped.ProviderInfo = []byte(one.KeyID())
	_, err = one.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Size: 32})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed, "under another key than it says")
}

func TestClosed(t *testing.T) {
	b := newBao(t)
	p, err := vault.NewProvider(t.Context(), b.createKey("closed", nil))
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrClosed)
}
