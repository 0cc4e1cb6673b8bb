package crypto_provider_gcp_kms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/crypto/crypto_provider_gcp_kms"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
)

// pikosDefault is the key ID that Piko's crypto service states until its keys are rotated.
const pikosDefault = "default"

func config(key string) crypto_provider_gcp_kms.Config {
	return crypto_provider_gcp_kms.Config{
		ProjectID: gcpkmstest.Project, Location: gcpkmstest.Location, KeyRing: gcpkmstest.KeyRing, KeyName: key[strings.LastIndex(key, "/")+1:],
	}
}

func open(t *testing.T, server *gcpkmstest.Server, c crypto_provider_gcp_kms.Config) crypto.EncryptionProvider {
	t.Helper()
	p, err := crypto_provider_gcp_kms.NewProvider(t.Context(), c, server.Options()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.(io.Closer).Close()) })
	return p
}

// client is what Piko's own provider asks Cloud KMS with.
func client(t *testing.T, server *gcpkmstest.Server) *kms.KeyManagementClient {
	t.Helper()
	c, err := kms.NewKeyManagementClient(t.Context(), server.Options()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func encryptStream(t *testing.T, p crypto.EncryptionProvider, keyID, plaintext string) []byte {
	t.Helper()
	var stored bytes.Buffer
	w, err := p.EncryptStream(t.Context(), &stored, &crypto.EncryptRequest{KeyID: keyID})
	require.NoError(t, err)
	_, err = io.WriteString(w, plaintext)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return stored.Bytes()
}

func decryptStream(t *testing.T, p crypto.EncryptionProvider, stored []byte) (string, error) {
	t.Helper()
	r, err := p.DecryptStream(t.Context(), bytes.NewReader(stored))
	if err != nil {
		require.Nil(t, r)
		return "", err
	}
	plaintext, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return string(plaintext), err
}

func TestStrings(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{Name: "app-data"})
	p := open(t, server, config(key))
	require.Equal(t, crypto.ProviderTypeGCPKMS, p.Type())
	require.NoError(t, p.HealthCheck(t.Context()))
	for _, keyID := range []string{"", pikosDefault, "app-data", key} {
		for _, size := range []int{1, 4096, 4097, 1 << 20} {
			plaintext := strings.Repeat("x", size)
			encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: plaintext, KeyID: keyID})
			require.NoError(t, err, keyID)
			require.Equal(t, &crypto.EncryptResponse{Ciphertext: encrypted.Ciphertext, KeyID: key, Provider: crypto.ProviderTypeGCPKMS}, encrypted)
			for _, named := range []string{keyID, encrypted.KeyID} {
				decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: named})
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted.Plaintext)
			}
		}
	}

	_, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret", KeyID: "another"})
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{})
	require.ErrorIs(t, err, crypto.ErrEmptyPlaintext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{})
	require.ErrorIs(t, err, crypto.ErrEmptyCiphertext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "*"})
	require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
	_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "AAAA"})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x", Context: map[string]string{provider.PairUse: provider.UseStream}})
	require.ErrorIs(t, err, crypto.ErrContextMismatch)
}

// Piko's own provider has Cloud KMS encrypt and decrypt, in base64 and without a context. Its
// responses name the key's version.
func TestStringsOfPikosOwnProvider(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	p := open(t, server, config(key))
	theirs, err := client(t, server).Encrypt(t.Context(), &kmspb.EncryptRequest{Name: key, Plaintext: []byte("before")})
	require.NoError(t, err)
	server.Rotate(key)
	decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(theirs.Ciphertext), KeyID: theirs.Name})
	require.NoError(t, err)
	require.Equal(t, "before", decrypted.Plaintext)

	ours, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "after", KeyID: pikosDefault})
	require.NoError(t, err)
	ciphertext, err := base64.StdEncoding.DecodeString(ours.Ciphertext)
	require.NoError(t, err)
	opened, err := client(t, server).Decrypt(t.Context(), &kmspb.DecryptRequest{Name: key, Ciphertext: ciphertext})
	require.NoError(t, err)
	require.Equal(t, "after", string(opened.Plaintext))
}

// After RotateKey Piko's crypto service names the new key in every request to encrypt.
func TestRotateKey(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	before, after := server.CreateKey(gcpkmstest.Key{}), server.CreateKey(gcpkmstest.Key{})
	p := open(t, server, config(before))
	old, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "old", KeyID: pikosDefault})
	require.NoError(t, err)
	oldStream := encryptStream(t, p, pikosDefault, "old stream")

	for _, plaintext := range []string{"new", strings.Repeat("new", 2000)} {
		encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: plaintext, KeyID: after})
		require.NoError(t, err)
		require.Equal(t, after, encrypted.KeyID)
		decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: encrypted.KeyID})
		require.NoError(t, err)
		require.Equal(t, plaintext, decrypted.Plaintext)
	}
	batch, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: after, KeySpec: "AES_256"})
	require.NoError(t, err)
	require.Equal(t, after, batch.KeyID)
	requireDataKey(t, p, batch)
	stored := encryptStream(t, p, after, "new stream")
	require.Contains(t, string(stored), after)
	plaintext, err := decryptStream(t, p, stored)
	require.NoError(t, err)
	require.Equal(t, "new stream", plaintext)

	// After a restart with the new key, the old one is trusted because the configuration says so.
	c := config(after)
	restarted := open(t, server, c)
	server.Reset()
	_, err = restarted.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: old.Ciphertext, KeyID: old.KeyID})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	require.ErrorContains(t, err, "TrustedKeys")
	_, err = decryptStream(t, restarted, oldStream)
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	require.Zero(t, server.Calls(""), "Cloud KMS is not asked about a key that a ciphertext names")
	c.TrustedKeys = []string{before}
	restarted = open(t, server, c)
	decrypted, err := restarted.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: old.Ciphertext, KeyID: old.KeyID})
	require.NoError(t, err)
	require.Equal(t, "old", decrypted.Plaintext)
	plaintext, err = decryptStream(t, restarted, oldStream)
	require.NoError(t, err)
	require.Equal(t, "old stream", plaintext)
}

// requireDataKey does what Piko does when it reads a batch: Decrypt, without a key ID.
func requireDataKey(t *testing.T, p crypto.EncryptionProvider, key *crypto.DataKey) {
	t.Helper()
	opened, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: key.EncryptedKey})
	require.NoError(t, err)
	require.NoError(t, key.PlaintextKey.WithAccess(func(plain []byte) error {
		if len(plain) != 32 || string(plain) != opened.Plaintext {
			return errors.New("the data key comes back changed")
		}
		return nil
	}))
	require.NoError(t, key.Close())
}

func TestStreams(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	p := open(t, server, config(server.CreateKey(gcpkmstest.Key{})))
	for _, size := range []int{0, 1, 65_536, 1 << 20} {
		plaintext := strings.Repeat("u", size)
		server.Reset()
		stored := encryptStream(t, p, pikosDefault, plaintext)
		require.True(t, header.Sniff(stored), "it is a message")
		got, err := decryptStream(t, p, stored)
		require.NoError(t, err)
		require.True(t, got == plaintext)
		require.Equal(t, 2, server.Calls(""), "one call each way")
		_, err = decryptStream(t, p, stored[:len(stored)-1])
		require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
		stored[len(stored)-1] ^= 1
		_, err = decryptStream(t, p, stored)
		require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	}
	w, err := p.EncryptStream(t.Context(), io.Discard, &crypto.EncryptRequest{KeyID: "another"})
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	require.Nil(t, w)
}

// AllowPikoV2 lets a stream of Piko's own provider be asked about: its data key is unwrapped.
func TestStreamsOfPikosOwnProvider(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key := server.CreateKey(gcpkmstest.Key{})
	wrapped, err := client(t, server).Encrypt(t.Context(), &kmspb.EncryptRequest{Name: key, Plaintext: make([]byte, 32)})
	require.NoError(t, err)
	stated, err := json.Marshal(map[string]any{
		"version": 2, "key_id": key, "provider": "gcp_kms", "iv": base64.StdEncoding.EncodeToString(make([]byte, 12)),
		"edk": base64.StdEncoding.EncodeToString(wrapped.Ciphertext), "algorithm": "AES-256-GCM",
	})
	require.NoError(t, err)
	stored := append(binary.BigEndian.AppendUint32([]byte{2}, uint32(len(stated))), stated...)

	c := config(key)
	server.Reset()
	_, err = decryptStream(t, open(t, server, c), stored)
	require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "AllowPikoV2")
	require.Zero(t, server.Calls("Decrypt"))
	c.AllowPikoV2 = true
	_, err = decryptStream(t, open(t, server, c), stored)
	require.NoError(t, err)
	require.Equal(t, 1, server.Calls("Decrypt"))
}

func TestKeyInfo(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	key, other := server.CreateKey(gcpkmstest.Key{}), server.CreateKey(gcpkmstest.Key{})
	p := open(t, server, config(key))
	for _, keyID := range []string{"", pikosDefault, key} {
		info, err := p.GetKeyInfo(t.Context(), keyID)
		require.NoError(t, err)
		require.Equal(t, key, info.KeyID)
		require.Equal(t, crypto.ProviderTypeGCPKMS, info.Provider)
		require.Equal(t, "GOOGLE_SYMMETRIC_ENCRYPTION", info.Algorithm)
		require.Equal(t, "GOOGLE_CLOUD_KMS", info.Origin)
		require.Equal(t, "ENCRYPT_DECRYPT", info.Metadata["purpose"])
		require.Equal(t, key+"/cryptoKeyVersions/1", info.Metadata["primary_version"])
		require.Equal(t, "GOOGLE_SYMMETRIC_ENCRYPTION", info.Metadata["version_template"])
		require.False(t, info.CreatedAt.IsZero())
		require.True(t, info.CanEncrypt())
	}
	server.SetState(other, 1, kmspb.CryptoKeyVersion_DESTROY_SCHEDULED)
	info, err := p.GetKeyInfo(t.Context(), other)
	require.NoError(t, err)
	require.Equal(t, crypto.KeyStatusDestroyed, info.Status)
	require.NotNil(t, info.DeletionDate)
	for state, want := range map[kmspb.CryptoKeyVersion_CryptoKeyVersionState]crypto.KeyStatus{
		kmspb.CryptoKeyVersion_ENABLED: crypto.KeyStatusActive, kmspb.CryptoKeyVersion_DISABLED: crypto.KeyStatusDisabled,
		kmspb.CryptoKeyVersion_PENDING_IMPORT: crypto.KeyStatusDisabled, kmspb.CryptoKeyVersion_DESTROYED: crypto.KeyStatusDestroyed,
	} {
		server.SetState(other, 1, state)
		info, err := p.GetKeyInfo(t.Context(), other)
		require.NoError(t, err)
		require.Equal(t, want, info.Status, state)
	}
	_, err = p.GetKeyInfo(t.Context(), "another")
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
}

func TestConfig(t *testing.T) {
	valid := crypto_provider_gcp_kms.Config{ProjectID: "p", Location: "l", KeyRing: "r", KeyName: "k"}
	require.NoError(t, valid.Validate())
	require.Equal(t, 3, valid.WithDefaults().MaxRetries)
	require.Equal(t, "projects/p/locations/l/keyRings/r/cryptoKeys/k", valid.KeyResourceName())
	for text, change := range map[string]func(*crypto_provider_gcp_kms.Config){
		"ProjectID is required":         func(c *crypto_provider_gcp_kms.Config) { c.ProjectID = "" },
		"Location is required":          func(c *crypto_provider_gcp_kms.Config) { c.Location = "" },
		"KeyRing is required":           func(c *crypto_provider_gcp_kms.Config) { c.KeyRing = "" },
		"KeyName is required":           func(c *crypto_provider_gcp_kms.Config) { c.KeyName = "" },
		"maxRetries cannot be negative": func(c *crypto_provider_gcp_kms.Config) { c.MaxRetries = -1 },
	} {
		c := valid
		change(&c)
		require.ErrorIs(t, c.Validate(), crypto.ErrInvalidKey)
		_, err := crypto_provider_gcp_kms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, crypto.ErrInvalidKey)
		require.ErrorContains(t, err, text)
	}
}

func TestOutageAtBoot(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	c := config(server.CreateKey(gcpkmstest.Key{}))
	c.KeyName = "none"
	_, err := crypto_provider_gcp_kms.NewProvider(t.Context(), c, server.Options()...)
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
	server.Close()
	c.MaxRetries = 1
	p, err := crypto_provider_gcp_kms.NewProvider(t.Context(), c, server.Options()...)
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
	require.Nil(t, p)
}

// With CheckLater an application starts while Cloud KMS is down.
func TestCheckLater(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	c := config(server.CreateKey(gcpkmstest.Key{}))
	c.MaxRetries = 1
	server.Close()
	_, err := crypto_provider_gcp_kms.NewProvider(t.Context(), c, server.Options()...)
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)

	c.CheckLater = true
	_, err = open(t, server, c).Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "text"})
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
}
