package crypto_provider_local_aes_gcm_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/crypto/pikokms/crypto_provider_local_aes_gcm"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// key returns the key of what Piko's own provider encrypted for the tests: 00 01 … 1f.
func key() []byte {
	key := make([]byte, crypto_provider_local_aes_gcm.KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func open(t *testing.T, c crypto_provider_local_aes_gcm.Config) crypto.EncryptionProvider {
	t.Helper()
	p, err := crypto_provider_local_aes_gcm.NewProvider(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.(io.Closer).Close()) })
	return p
}

func encryptStream(t *testing.T, p crypto.EncryptionProvider, plaintext string) []byte {
	t.Helper()
	var stored bytes.Buffer
	w, err := p.EncryptStream(t.Context(), &stored, &crypto.EncryptRequest{KeyID: "default"})
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

// The bootstrap differs from that of production only in the provider.
func Example() {
	key := make([]byte, crypto_provider_local_aes_gcm.KeySize) // from a file that is yours alone
	localProvider, err := crypto_provider_local_aes_gcm.NewProvider(crypto_provider_local_aes_gcm.Config{Key: key, KeyID: "dev"})
	if err != nil {
		panic(err)
	}
	ssr := piko.New(
		piko.WithCryptoProvider("local", localProvider),
		piko.WithDefaultCryptoProvider("local"),
	)
	_ = ssr // ssr.Run(piko.RunModeDev)
	// Output:
}

// A request may name any key, as after RotateKey of Piko's crypto service. The provider has only
// one.
func TestStrings(t *testing.T) {
	given := key()
	p := open(t, crypto_provider_local_aes_gcm.Config{Key: given, KeyID: "dev"})
	require.Equal(t, key(), given, "the caller's key is the caller's")
	clear(given)
	require.Equal(t, crypto.ProviderTypeLocalAESGCM, p.Type())
	require.NoError(t, p.HealthCheck(t.Context()))
	long := 13 << 20
	if testing.Short() {
		long = 2 << 20
	}
	for keyID, size := range map[string]int{"": long, "default": 1, "dev": 4097, "second": 1 << 20} {
		for _, plaintext := range []string{"s", strings.Repeat("x", size)} {
			encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: plaintext, KeyID: keyID})
			require.NoError(t, err)
			require.Equal(t, "dev", encrypted.KeyID)
			require.Equal(t, crypto.ProviderTypeLocalAESGCM, encrypted.Provider)
			for _, named := range []string{keyID, encrypted.KeyID} {
				decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, KeyID: named})
				require.NoError(t, err)
				require.True(t, plaintext == decrypted.Plaintext)
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		_, err := crypto_provider_local_aes_gcm.NewProvider(crypto_provider_local_aes_gcm.Config{Key: make([]byte, size)})
		require.ErrorIs(t, err, crypto_provider_local_aes_gcm.ErrInvalidKeySize)
		require.ErrorIs(t, err, crypto.ErrInvalidKey)
	}
	for _, old := range []bool{false, true} {
		p := open(t, crypto_provider_local_aes_gcm.Config{Key: key(), AllowPikoV2: old})
		_, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{})
		require.ErrorIs(t, err, crypto_provider_local_aes_gcm.ErrEmptyPlaintext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{})
		require.ErrorIs(t, err, crypto_provider_local_aes_gcm.ErrEmptyCiphertext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "*"})
		require.ErrorIs(t, err, crypto_provider_local_aes_gcm.ErrInvalidBase64)
		require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(make([]byte, 27))})
		require.ErrorIs(t, err, crypto_provider_local_aes_gcm.ErrCiphertextTooShort)
		require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)

		encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "secret"})
		require.NoError(t, err)
		sealed, err := base64.StdEncoding.DecodeString(encrypted.Ciphertext)
		require.NoError(t, err)
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(changed)})
			require.Error(t, err)
			_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(sealed[:i+1][:i])})
			require.Error(t, err)
		}
		other := open(t, crypto_provider_local_aes_gcm.Config{Key: make([]byte, 32), AllowPikoV2: old})
		_, err = other.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext})
		require.ErrorIs(t, err, crypto.ErrDecryptionFailed)
	}
}

// What Piko's crypto service does with a batch: the data key encrypts the items, Decrypt opens its
// text, and what comes is base64 of the key.
func TestDataKey(t *testing.T) {
	p := open(t, crypto_provider_local_aes_gcm.Config{Key: key()})
	made, err := p.GenerateDataKey(t.Context(), &crypto.GenerateDataKeyRequest{KeyID: "default", KeySpec: "AES_256"})
	require.NoError(t, err)
	require.Equal(t, "local-default", made.KeyID)
	opened, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: made.EncryptedKey})
	require.NoError(t, err)
	plain, err := base64.StdEncoding.DecodeString(opened.Plaintext)
	require.NoError(t, err)
	require.NoError(t, made.PlaintextKey.WithAccess(func(b []byte) error {
		if len(b) != 32 || !bytes.Equal(b, plain) {
			return errors.New("the data key comes back changed")
		}
		return nil
	}))
	require.NoError(t, made.Close())
}

func TestKeyInfo(t *testing.T) {
	p := open(t, crypto_provider_local_aes_gcm.Config{Key: key(), KeyID: "dev"})
	for _, keyID := range []string{"", "default", "dev"} {
		info, err := p.GetKeyInfo(t.Context(), keyID)
		require.NoError(t, err)
		require.Equal(t, "dev", info.KeyID)
		require.Equal(t, "AES-256-GCM", info.Algorithm)
		require.Equal(t, crypto.KeyStatusActive, info.Status)
		require.Equal(t, "LOCAL", info.Origin)
		require.Equal(t, "12", info.Metadata["iv_size"])
		require.Equal(t, "16", info.Metadata["tag_size"])
		require.False(t, info.CreatedAt.IsZero())
	}
	_, err := p.GetKeyInfo(t.Context(), "second")
	require.ErrorIs(t, err, crypto.ErrKeyNotFound)
}

func TestStreams(t *testing.T) {
	p := open(t, crypto_provider_local_aes_gcm.Config{Key: key(), KeyID: "dev"})
	for _, size := range []int{0, 1, 65_535, 65_536, 65_537, 1 << 20} {
		plaintext := strings.Repeat("u", size)
		stored := encryptStream(t, p, plaintext)
		require.True(t, header.Sniff(stored), "it is a message")
		got, err := decryptStream(t, p, stored)
		require.NoError(t, err)
		require.True(t, got == plaintext)
		for _, damaged := range [][]byte{stored[:len(stored)-1], stored[:len(stored)/2], append(bytes.Clone(stored), 0)} {
			_, err = decryptStream(t, p, damaged)
			require.True(t, errors.Is(err, crypto.ErrInvalidCiphertext) || errors.Is(err, crypto.ErrDecryptionFailed), err)
		}
	}

	// AWS's SDKs, as package local, open them with a raw AES keyring.
	keyring, err := local.NewProvider(local.Config{Key: key(), Namespace: "piko", Name: "dev"})
	require.NoError(t, err)
	d := message.Decrypter{Keyrings: []provider.Unwrapper{keyring}}
	plaintext, pairs, err := d.Decrypt(t.Context(), encryptStream(t, p, "uploaded"), nil)
	require.NoError(t, err)
	require.Equal(t, "uploaded", string(plaintext))
	require.Equal(t, map[string]string{provider.PairUse: provider.UseStream}, pairs)
}

// Strings, data keys and streams are kept apart, though all are under one key.
func TestUsesAreKeptApart(t *testing.T) {
	for _, old := range []bool{false, true} {
		p := open(t, crypto_provider_local_aes_gcm.Config{Key: key(), KeyID: "dev", AllowPikoV2: old})
		encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "a string"})
		require.NoError(t, err)
		text, err := base64.StdEncoding.DecodeString(encrypted.Ciphertext)
		require.NoError(t, err)
		_, err = decryptStream(t, p, text)
		require.ErrorIs(t, err, crypto.ErrContextMismatch, "a string is no stream")

		stored := encryptStream(t, p, "a stream")
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		wrapped := h.EncryptedDataKeys[0]
		iv := wrapped.ProviderInfo[len(wrapped.ProviderInfo)-crypto_provider_local_aes_gcm.IVSize:]
		for _, sealed := range [][]byte{stored, append(bytes.Clone(iv), wrapped.Ciphertext...)} {
			for _, pairs := range []map[string]string{nil, h.EncryptionContext} {
				_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(sealed), Context: pairs})
				require.Error(t, err, "neither a stream nor its data key is a string")
			}
		}
		_, err = p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x", Context: h.EncryptionContext})
		require.ErrorIs(t, err, crypto.ErrContextMismatch)
	}
}

// What Piko's own provider encrypted is read where that is allowed, and refused with a reason else.
func TestWhatPikosOwnProviderEncrypted(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("..", "internal", "envelope", "testdata", "local.json"))
	require.NoError(t, err)
	var stored map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(file, &stored))
	old, strict := open(t, crypto_provider_local_aes_gcm.Config{Key: key(), AllowPikoV2: true}), open(t, crypto_provider_local_aes_gcm.Config{Key: key()})
	decrypt := func(p crypto.EncryptionProvider, text string) (string, error) {
		response, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: text, KeyID: "local-default"})
		if err != nil {
			return "", err
		}
		return response.Plaintext, nil
	}
	n := 0
	for _, raw := range stored {
		var texts []struct{ Plaintext, Text string }
		if json.Unmarshal(raw, &texts) != nil {
			continue
		}
		for _, s := range texts {
			n++
			var e struct {
				EncryptedDataKey string `json:"edk"`
				Ciphertext       string `json:"ct"`
			}
			object, err := base64.StdEncoding.DecodeString(s.Text)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(object, &e))
			text, want := e.Ciphertext, s.Plaintext
			if e.EncryptedDataKey != "" { // Piko opens the items itself, with what Decrypt gives
				text = e.EncryptedDataKey
			}
			_, err = decrypt(strict, text)
			require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
			require.ErrorContains(t, err, "AllowPikoV2")
			got, err := decrypt(old, text)
			require.NoError(t, err)
			if e.EncryptedDataKey == "" {
				require.Equal(t, want, got)
				continue
			}
			dataKey, err := base64.StdEncoding.DecodeString(got)
			require.NoError(t, err)
			item := open(t, crypto_provider_local_aes_gcm.Config{Key: dataKey, AllowPikoV2: true})
			got, err = decrypt(item, e.Ciphertext)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
	require.Positive(t, n)

	stream, err := os.ReadFile(filepath.Join("..", "pikov2", "testdata", "local-65537.bin"))
	require.NoError(t, err)
	got, err := decryptStream(t, old, stream)
	require.NoError(t, err)
	require.Len(t, got, 65537)
	_, err = decryptStream(t, strict, stream)
	require.ErrorIs(t, err, crypto.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "AllowPikoV2")
}

func TestContextIsHonoured(t *testing.T) {
	p := open(t, crypto_provider_local_aes_gcm.Config{Key: key()})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Encrypt(ended, &crypto.EncryptRequest{Plaintext: "x"})
	require.ErrorIs(t, err, context.Canceled)
	encrypted, err := p.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "x", Context: map[string]string{"tenant": "42"}})
	require.NoError(t, err)
	for _, pairs := range []map[string]string{nil, {"tenant": "43"}, {"tenant": "42", "more": ""}} {
		_, err = p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: pairs})
		require.Error(t, err)
	}
	decrypted, err := p.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: map[string]string{"tenant": "42"}})
	require.NoError(t, err)
	require.Equal(t, "x", decrypted.Plaintext)
}
