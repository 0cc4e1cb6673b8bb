// Package providertest is the conformance suite of encryption providers. It tests what every
// implementation of provider.EncryptionProvider must do, and Piko's strings under it, whatever its
// key service. A test of a key service calls it:
//
//	func TestProvider(t *testing.T) {
//		providertest.Run(t, open, other)
//	}
package providertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Run runs the suite. open makes a provider, always on the same key. other makes a provider of the
// same type on another key.
func Run(t *testing.T, open, other func(t *testing.T) provider.EncryptionProvider) {
	var counted atomic.Int64
	defer func() { t.Logf("%d checks", counted.Load()) }()
	p := open(t)
	ctx := t.Context()
	pairs := map[string]string{"tenant": "α", "purpose": "conformance"}

	t.Run("value", func(t *testing.T) {
		c := checks{t, &counted}
		for _, size := range []int{0, 1, 4096, 4097, 200_000} {
			plaintext := strings.Repeat("v", size)
			sealed, err := envelope.Seal(ctx, p, plaintext, pairs)
			c.must(err)
			c.that(sealed.Provider == string(p.Type()) && sealed.KeyID != "", "the envelope names provider %q and key %q", sealed.Provider, sealed.KeyID)
			opened, err := envelope.Open(ctx, p, sealed.Ciphertext, pairs)
			c.must(err)
			c.that(opened == plaintext, "%d bytes come back changed", size)
			for name, wrong := range map[string]map[string]string{
				"no context":      nil,
				"a pair fewer":    {"tenant": "α"},
				"another value":   {"tenant": "β", "purpose": "conformance"},
				"a pair too many": {"tenant": "α", "purpose": "conformance", "more": ""},
			} {
				_, err := envelope.Open(ctx, p, sealed.Ciphertext, wrong)
				c.that(err != nil, "%d bytes decrypt under %s", size, name)
				if size > 4096 || size == 0 { // so it is a message, which has a use
					c.refused(err, provider.ErrContextMismatch)
				}
			}
			_, err = envelope.Open(ctx, other(t), sealed.Ciphertext, pairs)
			c.refused(err, provider.ErrDecryptionFailed, provider.ErrUntrustedKey)
		}
	})

	t.Run("bad value", func(t *testing.T) {
		c := checks{t, &counted}
		_, err := envelope.Seal(ctx, p, "x", map[string]string{"aws-crypto-x": ""})
		c.refused(err, header.ErrInvalidContext)
		_, err = envelope.Open(ctx, p, "no base64!", nil)
		c.refused(err, provider.ErrInvalidCiphertext)
		_, err = envelope.Open(ctx, p, base64.StdEncoding.EncodeToString([]byte("no ciphertext")), nil)
		c.refused(err, provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed)

		sealed, err := envelope.Seal(ctx, p, "secret", nil)
		c.must(err)
		blob, err := base64.StdEncoding.DecodeString(sealed.Ciphertext)
		c.must(err)
		blob[len(blob)-1] ^= 1
		_, err = envelope.Open(ctx, p, base64.StdEncoding.EncodeToString(blob), nil)
		c.refused(err, provider.ErrDecryptionFailed)
		c.that(!strings.Contains(err.Error(), "secret"), "the error shows the plaintext: %v", err)
	})

	t.Run("data key", func(t *testing.T) {
		c := checks{t, &counted}
		made, err := p.GenerateDataKey(ctx, pairs)
		c.must(err)
		defer made.Close()
		c.that(made.PlaintextKey.Len() == 32 && made.KeyID != "", "%d bytes, key %q", made.PlaintextKey.Len(), made.KeyID)
		rewrapped, err := p.WrapDataKey(ctx, made.PlaintextKey, pairs)
		c.must(err)
		for _, wrapped := range []header.EncryptedDataKey{made.EncryptedKey, rewrapped} {
			request := func(change func(*provider.UnwrapDataKeyRequest)) *provider.UnwrapDataKeyRequest {
				r := &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32}
				r.EncryptedKey.Ciphertext = bytes.Clone(wrapped.Ciphertext)
				change(r)
				return r
			}
			got, err := p.UnwrapDataKey(ctx, request(func(*provider.UnwrapDataKeyRequest) {}))
			c.must(err)
			c.equal(made.PlaintextKey, got.PlaintextKey)
			c.must(got.Close())

			_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) { r.Context = nil }))
			c.refused(err, provider.ErrDecryptionFailed)
			_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) { r.Size = 16 }))
			c.refused(err, provider.ErrDecryptionFailed)
			_, err = p.UnwrapDataKey(ctx, request(func(r *provider.UnwrapDataKeyRequest) {
				r.EncryptedKey.Ciphertext[len(wrapped.Ciphertext)-1] ^= 1
			}))
			c.refused(err, provider.ErrDecryptionFailed)
			_, err = other(t).UnwrapDataKey(ctx, request(func(*provider.UnwrapDataKeyRequest) {}))
			c.refused(err, provider.ErrUntrustedKey, provider.ErrDecryptionFailed)
		}
		c.must(made.Close())
		printed := fmt.Sprintf("%v %+v %s %x %d", made.PlaintextKey, made, made.PlaintextKey, made.PlaintextKey, made.PlaintextKey)
		c.that(strings.Contains(printed, "[redacted]"), "a data key prints as %s", printed)
		_, err = p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: header.EncryptedDataKey{ProviderID: "stranger"}, Size: 32})
		c.refused(err, provider.ErrUntrustedKey)
	})

	t.Run("current", func(t *testing.T) {
		versioned, ok := p.(provider.VersionedKeyring)
		if !ok {
			t.Skip("skipped: the provider is no provider.VersionedKeyring")
		}
		c := checks{t, &counted}
		made, err := p.GenerateDataKey(ctx, pairs)
		c.must(err)
		defer made.Close()
		rewrapped, err := p.WrapDataKey(ctx, made.PlaintextKey, pairs)
		c.must(err)
		for _, wrapped := range []header.EncryptedDataKey{made.EncryptedKey, rewrapped} {
			request := &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32}
			current, err := versioned.IsCurrent(ctx, request)
			c.that(err == nil && current, "a data key that was just made is current: %t, %v", current, err)
			current, err = other(t).(provider.VersionedKeyring).IsCurrent(ctx, request)
			c.that(!current, "a data key is current under another key")
			if err != nil {
				c.refused(err, provider.ErrDecryptionFailed)
			}
		}
		current, err := versioned.IsCurrent(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: header.EncryptedDataKey{ProviderID: "stranger"}, Size: 32})
		c.that(err == nil && !current, "a stranger's data key is current: %t, %v", current, err)
	})

	t.Run("uses", func(t *testing.T) {
		c := checks{t, &counted}
		for _, use := range []string{provider.UseObject, provider.UseString, provider.UseStream} {
			of := map[string]string{provider.PairUse: use}
			_, err := envelope.Seal(ctx, p, "x", of)
			c.refused(err, header.ErrInvalidContext)
			key, err := p.GenerateDataKey(ctx, of)
			c.must(err)
			c.must(key.Close())
			// A data key is handed out for no other use, and not as a string.
			for _, other := range []string{provider.UseObject, provider.UseString, provider.UseStream, ""} {
				request := &provider.UnwrapDataKeyRequest{EncryptedKey: key.EncryptedKey, Context: map[string]string{provider.PairUse: other}, Size: 32}
				if other == "" {
					request.Context = nil
				}
				if got, err := p.UnwrapDataKey(ctx, request); other == use {
					c.must(err)
					c.must(got.Close())
				} else {
					c.refused(err, provider.ErrDecryptionFailed)
				}
			}
			text := base64.StdEncoding.EncodeToString(key.EncryptedKey.Ciphertext)
			_, err = envelope.Open(ctx, p, text, nil)
			c.refused(err, provider.ErrDecryptionFailed, provider.ErrInvalidCiphertext)
			_, err = envelope.Open(ctx, p, text, of)
			c.refused(err, provider.ErrContextMismatch, provider.ErrInvalidCiphertext)
		}
	})

	t.Run("stream", func(t *testing.T) {
		c := checks{t, &counted}
		for _, size := range []int{0, 1, 65536, 300_000} {
			plaintext := make([]byte, size)
			_, _ = rand.Read(plaintext)
			stored := encryptStream(t, p, plaintext, pairs)
			r, err := decryptStream(ctx, open(t), bytes.NewReader(stored))
			c.must(err)
			got, err := io.ReadAll(r)
			c.must(err)
			c.must(r.Close())
			c.that(bytes.Equal(got, plaintext), "%d bytes come back changed", size)
			_, err = decryptStream(ctx, other(t), bytes.NewReader(stored))
			c.refused(err, provider.ErrUntrustedKey, provider.ErrDecryptionFailed)

			r, err = decryptStream(ctx, p, bytes.NewReader(stored[:len(stored)-1]))
			c.must(err)
			_, err = io.ReadAll(r)
			c.refused(err, provider.ErrInvalidCiphertext)
			stored[len(stored)-1] ^= 1
			r, err = decryptStream(ctx, p, bytes.NewReader(stored))
			c.must(err)
			_, err = io.ReadAll(r)
			c.refused(err, provider.ErrDecryptionFailed)
		}
		_, err := decryptStream(ctx, p, strings.NewReader("no message"))
		c.refused(err, provider.ErrInvalidCiphertext)
	})

	t.Run("key", func(t *testing.T) {
		c := checks{t, &counted}
		if d, ok := p.(describer); ok {
			info, err := d.GetKeyInfo(ctx, "")
			c.must(err)
			c.that(info.KeyID != "" && info.Err == nil && info.Algorithm != "" && !info.CreatedAt.IsZero(),
				"key info is %+v", info)
		}
		c.must(provider.Check(ctx, p))
	})

	t.Run("cancelled", func(t *testing.T) {
		c := checks{t, &counted}
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err := p.GenerateDataKey(cancelled, nil)
		c.refused(err, context.Canceled)
		_, err = p.UnwrapDataKey(cancelled, &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped(t, p), Size: 32})
		c.refused(err, context.Canceled)
		_, err = envelope.Seal(cancelled, p, "x", nil)
		c.refused(err, context.Canceled)
		if d, ok := p.(describer); ok {
			_, err = d.GetKeyInfo(cancelled, "")
			c.refused(err, context.Canceled)
		}
		c.refused(provider.Check(cancelled, p), context.Canceled)
		c.that(!errors.Is(err, provider.ErrProviderUnavailable), "a caller's own cancellation counts as an outage: %v", err)
	})

	t.Run("concurrent", func(t *testing.T) {
		c := checks{t, &counted}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				plaintext := bytes.Repeat([]byte{byte(i)}, 70_000)
				r, err := decryptStream(ctx, p, bytes.NewReader(encryptStream(t, p, plaintext, nil)))
				c.that(err == nil, "opening stream %d: %v", i, err)
				if err != nil {
					return
				}
				got, err := io.ReadAll(r)
				c.that(err == nil && bytes.Equal(got, plaintext), "stream %d: %d bytes, %v", i, len(got), err)
			})
		}
		wg.Wait()
	})
}

// describer is a provider that describes its key.
type describer interface {
	GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error)
}

// wrapped returns a data key under the provider's key.
func wrapped(t *testing.T, p provider.Keyring) header.EncryptedDataKey {
	t.Helper()
	made, err := p.GenerateDataKey(t.Context(), nil)
	must(t, err)
	must(t, made.Close())
	return made.EncryptedKey
}

func decryptStream(ctx context.Context, p provider.Keyring, stored io.Reader) (*message.DecryptReader, error) {
	return (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).NewReader(ctx, stored, nil)
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

// checks counts what is checked.
type checks struct {
	*testing.T
	made *atomic.Int64
}

func (c checks) must(err error) {
	c.Helper()
	c.made.Add(1)
	must(c.T, err)
}

func (c checks) that(holds bool, format string, arguments ...any) {
	c.Helper()
	c.made.Add(1)
	if !holds {
		c.Errorf(format, arguments...)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err holds one of the sentinels.
func (c checks) refused(err error, sentinels ...error) {
	c.Helper()
	c.made.Add(1)
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return
		}
	}
	c.Errorf("got error %v, want one of %v", err, sentinels)
}

func (c checks) equal(a, b *provider.SecureBytes) {
	c.Helper()
	c.must(a.WithAccess(func(x []byte) error {
		return b.WithAccess(func(y []byte) error {
			if !bytes.Equal(x, y) {
				return errors.New("the data keys differ")
			}
			return nil
		})
	}))
}

// Conceals tests that no print verb, log or encoding shows the text secret of a configuration,
// alone or within other values, and that one of them shows the text shown, which is not secret.
func Conceals[C any](t *testing.T, config C, secret, shown string) {
	t.Helper()
	within := struct {
		Config  C
		Pointer *C
		List    []C
	}{config, &config, []C{config}}
	var texts []string
	for _, value := range []any{config, &config, within, &within, []C{config}, map[string]C{"a": config}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, value))
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "config", value)
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "config", value)
		texts = append(texts, string(encoded), logged.String())
	}
	bytesOf := strings.Trim(fmt.Sprint([]byte(secret)), "[]")
	hidden := []string{secret, bytesOf, fmt.Sprintf("%x", secret), base64.StdEncoding.EncodeToString([]byte(secret)), fmt.Sprintf("%#v", []byte(secret))}
	found := false
	for _, text := range texts {
		for _, h := range hidden {
			if strings.Contains(text, h) {
				t.Errorf("shown: %s", text)
			}
		}
		found = found || strings.Contains(text, shown)
	}
	if !found {
		t.Errorf("nothing shows %q", shown)
	}
}
