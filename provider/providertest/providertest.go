// Package providertest is the conformance suite of encryption providers. It tests what every
// implementation of provider.EncryptionProvider must do, whatever its key service.
package providertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Run runs the suite. open makes a provider, always on the same key. other makes a provider of the
// same type on another key.
func Run(t *testing.T, open, other func(t *testing.T) provider.EncryptionProvider) {
	p := open(t)
	ctx := t.Context()
	pairs := map[string]string{"tenant": "α", "purpose": "conformance"}

	t.Run("value", func(t *testing.T) {
		for _, size := range []int{1, 4096, 4097, 200_000} {
			plaintext := strings.Repeat("v", size)
			encrypted, err := p.Encrypt(ctx, &provider.EncryptRequest{Plaintext: plaintext, Context: pairs})
			must(t, err)
			if encrypted.Provider != p.Type() || encrypted.KeyID == "" {
				t.Errorf("response names provider %q and key %q", encrypted.Provider, encrypted.KeyID)
			}
			decrypted, err := p.Decrypt(ctx, &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: pairs})
			must(t, err)
			if decrypted.Plaintext != plaintext {
				t.Errorf("%d bytes come back changed", size)
			}
			for name, wrong := range map[string]map[string]string{
				"no context":      nil,
				"a pair fewer":    {"tenant": "α"},
				"another value":   {"tenant": "β", "purpose": "conformance"},
				"a pair too many": {"tenant": "α", "purpose": "conformance", "more": ""},
			} {
				_, err := p.Decrypt(ctx, &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: wrong})
				if err == nil {
					t.Errorf("%d bytes decrypt under %s", size, name)
				}
				if size > 4096 { // so it is a message, which has a use
					refused(t, err, provider.ErrContextMismatch)
				}
			}
			_, err = other(t).Decrypt(ctx, &provider.DecryptRequest{Ciphertext: encrypted.Ciphertext, Context: pairs})
			refused(t, err, provider.ErrDecryptionFailed, provider.ErrUntrustedKey)
		}
	})

	t.Run("bad value", func(t *testing.T) {
		_, err := p.Encrypt(ctx, &provider.EncryptRequest{})
		refused(t, err, provider.ErrEmptyPlaintext)
		_, err = p.Encrypt(ctx, &provider.EncryptRequest{Plaintext: "x", Context: map[string]string{"aws-crypto-x": ""}})
		refused(t, err, header.ErrInvalidContext)
		_, err = p.Encrypt(ctx, &provider.EncryptRequest{Plaintext: "x", KeyID: "another-key"})
		refused(t, err, provider.ErrKeyNotFound)
		_, err = p.Decrypt(ctx, &provider.DecryptRequest{})
		refused(t, err, provider.ErrEmptyCiphertext)
		_, err = p.Decrypt(ctx, &provider.DecryptRequest{Ciphertext: "no base64!"})
		refused(t, err, provider.ErrInvalidCiphertext)
		_, err = p.Decrypt(ctx, &provider.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString([]byte("no ciphertext"))})
		refused(t, err, provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed)

		encrypted, err := p.Encrypt(ctx, &provider.EncryptRequest{Plaintext: "secret"})
		must(t, err)
		blob, err := base64.StdEncoding.DecodeString(encrypted.Ciphertext)
		must(t, err)
		blob[len(blob)-1] ^= 1
		_, err = p.Decrypt(ctx, &provider.DecryptRequest{Ciphertext: base64.StdEncoding.EncodeToString(blob)})
		refused(t, err, provider.ErrDecryptionFailed)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the plaintext: %v", err)
		}
	})

	t.Run("data key", func(t *testing.T) {
		for _, spec := range []string{"", "AES_256"} {
			made, err := p.GenerateDataKey(ctx, &provider.GenerateDataKeyRequest{Context: pairs, KeySpec: spec})
			must(t, err)
			defer made.Close()
			if made.PlaintextKey.Len() != 32 || made.Provider != p.Type() || made.KeyID == "" {
				t.Errorf("key spec %q: %d bytes, provider %q, key %q", spec, made.PlaintextKey.Len(), made.Provider, made.KeyID)
			}
			rewrapped, err := p.WrapDataKey(ctx, made.PlaintextKey, pairs)
			must(t, err)
			for _, wrapped := range []header.EncryptedDataKey{made.EncryptedKey, rewrapped} {
				request := func(change func(*provider.UnwrapDataKeyRequest)) *provider.UnwrapDataKeyRequest {
					r := &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32}
					r.EncryptedKey.Ciphertext = bytes.Clone(wrapped.Ciphertext)
					change(r)
					return r
				}
				got, err := p.UnwrapDataKey(ctx, request(func(*provider.UnwrapDataKeyRequest) {}))
				must(t, err)
				equal(t, made.PlaintextKey, got)
				must(t, got.Close())

				_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) { r.Context = nil }))
				refused(t, err, provider.ErrDecryptionFailed)
				_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) { r.Size = 16 }))
				refused(t, err, provider.ErrDecryptionFailed)
				_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) {
					r.EncryptedKey.Ciphertext[len(wrapped.Ciphertext)-1] ^= 1
				}))
				refused(t, err, provider.ErrDecryptionFailed)
				_, err = other(t).UnwrapDataKey(ctx, request(func(*provider.UnwrapDataKeyRequest) {}))
				refused(t, err, provider.ErrUntrustedKey, provider.ErrDecryptionFailed)
			}
			must(t, made.Close())
			if s := fmt.Sprintf("%v %+v %s %x %d", made.PlaintextKey, made, made.PlaintextKey, made.PlaintextKey, made.PlaintextKey); !strings.Contains(s, "[redacted]") {
				t.Errorf("a data key prints as %s", s)
			}
		}
		_, err := p.GenerateDataKey(ctx, &provider.GenerateDataKeyRequest{KeySpec: "RSA_2048"})
		refused(t, err, provider.ErrInvalidKey)
		_, err = p.GenerateDataKey(ctx, &provider.GenerateDataKeyRequest{KeyID: "another-key"})
		refused(t, err, provider.ErrKeyNotFound)
		_, err = p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: header.EncryptedDataKey{ProviderID: "stranger"}, Size: 32})
		refused(t, err, provider.ErrUntrustedKey)
	})

	t.Run("stream", func(t *testing.T) {
		for _, size := range []int{0, 1, 65536, 300_000} {
			plaintext := make([]byte, size)
			_, _ = rand.Read(plaintext)
			stored := encryptStream(t, p, plaintext, pairs)
			r, err := decryptStream(ctx, open(t), bytes.NewReader(stored))
			must(t, err)
			got, err := io.ReadAll(r)
			must(t, err)
			must(t, r.Close())
			if !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes come back changed", size)
			}
			_, err = decryptStream(ctx, other(t), bytes.NewReader(stored))
			refused(t, err, provider.ErrUntrustedKey, provider.ErrDecryptionFailed)

			r, err = decryptStream(ctx, p, bytes.NewReader(stored[:len(stored)-1]))
			must(t, err)
			_, err = io.ReadAll(r)
			refused(t, err, provider.ErrInvalidCiphertext)
			stored[len(stored)-1] ^= 1
			r, err = decryptStream(ctx, p, bytes.NewReader(stored))
			must(t, err)
			_, err = io.ReadAll(r)
			refused(t, err, provider.ErrDecryptionFailed)
		}
		_, err := decryptStream(ctx, p, strings.NewReader("no message"))
		refused(t, err, provider.ErrInvalidCiphertext)
	})

	t.Run("key", func(t *testing.T) {
		info, err := p.GetKeyInfo(ctx, "")
		must(t, err)
		if info.KeyID == "" || info.Provider != p.Type() || info.Status != provider.KeyStatusActive || info.Algorithm == "" || info.CreatedAt.IsZero() {
			t.Errorf("key info is %+v", info)
		}
		must(t, p.HealthCheck(ctx))
	})

	t.Run("cancelled", func(t *testing.T) {
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err := p.GenerateDataKey(cancelled, &provider.GenerateDataKeyRequest{})
		refused(t, err, context.Canceled)
		_, err = p.UnwrapDataKey(cancelled, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped(t, p), Size: 32})
		refused(t, err, context.Canceled)
		_, err = p.Encrypt(cancelled, &provider.EncryptRequest{Plaintext: "x"})
		refused(t, err, context.Canceled)
		_, err = p.GetKeyInfo(cancelled, "")
		refused(t, err, context.Canceled)
		refused(t, p.HealthCheck(cancelled), context.Canceled)
		if errors.Is(err, provider.ErrProviderUnavailable) {
			t.Errorf("a caller's own cancellation counts as an outage: %v", err)
		}
	})

	t.Run("concurrent", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				plaintext := bytes.Repeat([]byte{byte(i)}, 70_000)
				r, err := decryptStream(ctx, p, bytes.NewReader(encryptStream(t, p, plaintext, nil)))
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
				}
			})
		}
		wg.Wait()
	})
}

// wrapped returns a data key under the provider's key.
func wrapped(t *testing.T, p provider.Keyring) header.EncryptedDataKey {
	t.Helper()
	made, err := p.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{})
	must(t, err)
	must(t, made.Close())
	return made.EncryptedKey
}

func decryptStream(ctx context.Context, p provider.Keyring, stored io.Reader) (*message.DecryptReader, error) {
	return (&message.Decrypter{Keyrings: []provider.Keyring{p}}).NewReader(ctx, stored, nil)
}

func encryptStream(t *testing.T, p provider.Keyring, plaintext []byte, pairs map[string]string) []byte {
	t.Helper()
	var stored bytes.Buffer
	w, err := (&message.Encrypter{Keyring: p}).NewWriter(t.Context(), &stored, pairs)
	if err == nil {
		_, err = w.Write(plaintext)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Errorf("encrypting a stream: %v", err)
	}
	return stored.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err holds one of the sentinels.
func refused(t *testing.T, err error, sentinels ...error) {
	t.Helper()
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return
		}
	}
	t.Errorf("got error %v, want one of %v", err, sentinels)
}

func equal(t *testing.T, a, b *provider.SecureBytes) {
	t.Helper()
	must(t, a.WithAccess(func(x []byte) error {
		return b.WithAccess(func(y []byte) error {
			if !bytes.Equal(x, y) {
				return errors.New("the data keys differ")
			}
			return nil
		})
	}))
}
