// Package envelope reads and writes the text in which the web framework Piko stores an encrypted
// string: base64 of a JSON object with a provider's ciphertext and the name of its key.
//
// It stands between an application that stores strings and the providers of data keys. Only [Seal]
// and [Open] know how Piko encrypts a string: the key service itself encrypts a small one, if it
// can, and any other is a message under a data key. The envelope is not authenticated: it only
// names the providers to ask. Streams have no envelope: see packages message and pikov2.
package envelope

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/provider"
)

// maxSize bounds an envelope's text in bytes.
const maxSize = 16 << 20

const version = 1

// Envelope is an encrypted string with the names of its provider and key. Its fields are not
// authenticated.
type Envelope struct {
	KeyID            string `json:"key_id"`        // as the provider calls it
	Provider         string `json:"provider"`      // the provider's provider.Type
	EncryptedDataKey string `json:"edk,omitempty"` // only in batches that Piko wrote before pikokms
	Ciphertext       string `json:"ct"`            // base64
	Version          int    `json:"v"`             // 1
}

// Parse reads an envelope's text. The error holds provider.ErrInvalidCiphertext.
func Parse(text string) (*Envelope, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w: the envelope has %d bytes, at most %d are taken", provider.ErrInvalidCiphertext, len(text), maxSize)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the envelope is not base64: %w", provider.ErrInvalidCiphertext, err)
	}
	e := new(Envelope)
	if json.Unmarshal(b, e) != nil { // its error may quote any part of the envelope
		return nil, fmt.Errorf("%w: the envelope does not hold the JSON object of one", provider.ErrInvalidCiphertext)
	}
	if e.Version != version {
		return nil, fmt.Errorf("%w: the envelope has version %d, not %d", provider.ErrInvalidCiphertext, e.Version, version)
	}
	if e.Provider == "" || e.Ciphertext == "" {
		return nil, fmt.Errorf("%w: the envelope has no provider or no ciphertext", provider.ErrInvalidCiphertext)
	}
	return e, nil
}

// String returns the envelope's text, byte for byte as Piko writes it.
func (e *Envelope) String() string {
	b, _ := json.Marshal(e) // it holds strings and a number, so this never fails
	return base64.StdEncoding.EncodeToString(b)
}

// Encrypt encrypts a string and returns the text of its envelope. The errors are Seal's and New's.
func Encrypt(ctx context.Context, p provider.EncryptionProvider, plaintext string, encryptionContext map[string]string) (string, error) {
	e, err := Seal(ctx, p, plaintext, encryptionContext)
	if err != nil {
		return "", err
	}
	return New(e.KeyID, p.Type(), e.Ciphertext)
}

// New returns the text of an envelope around a ciphertext in the form in which Seal returns it. The
// error holds provider.ErrEncryptionFailed for an envelope of more than 16 MiB.
func New(keyID string, kind provider.Type, ciphertext string) (string, error) {
	text := (&Envelope{KeyID: keyID, Provider: string(kind), Ciphertext: ciphertext, Version: version}).String()
	if len(text) > maxSize {
		return "", fmt.Errorf("%w: the envelope has %d bytes, readers take %d; encrypt it as a stream", provider.ErrEncryptionFailed, len(text), maxSize)
	}
	return text, nil
}

// Decrypter decrypts strings in envelopes. It is safe for concurrent use, but its fields must not
// change once it is in use.
type Decrypter struct {
	// Providers are tried in order, as far as their type is the envelope's. Those whose key the
	// envelope names come first.
	Providers []provider.EncryptionProvider

	// AllowPikoV2 also decrypts strings that Piko encrypted before it used pikokms, under a local
	// key or in a batch. The provider must implement provider.PikoV2Keyring. The option
	// AllowPikoV2 of package pikokms says what an attacker can do while it is set.
	AllowPikoV2 bool
}

// Decrypt decrypts a string whose encryption context equals encryptionContext. Host.Decrypt of
// package pikokms says what the errors hold.
func (d *Decrypter) Decrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	e, err := Parse(text)
	if err != nil {
		return "", err
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	if err != nil {
		return "", fmt.Errorf("%w: the ciphertext is not base64: %w", provider.ErrInvalidCiphertext, err)
	}
	decrypt := func(p provider.EncryptionProvider) (string, error) {
		return open(ctx, p, ciphertext, encryptionContext)
	}
	if e.isPikoV2(ciphertext, d.AllowPikoV2 && len(encryptionContext) == 0) {
		if !d.AllowPikoV2 {
			return "", fmt.Errorf("%w: it is no string of pikokms; AllowPikoV2 lets those be read that Piko encrypted before", provider.ErrInvalidCiphertext)
		}
		if len(encryptionContext) > 0 {
			return "", fmt.Errorf("%w: a string from before pikokms has none", provider.ErrContextMismatch)
		}
		decrypt = func(p provider.EncryptionProvider) (string, error) { return decryptPikoV2(ctx, p, e, ciphertext) }
	}

	var failures []error
	for i, p := range d.inOrder(e) {
		plaintext, err := decrypt(p)
		if err == nil {
			return plaintext, nil
		}
		failures = append(failures, fmt.Errorf("provider %d: %w", i+1, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(failures) == 0 {
		return "", fmt.Errorf("%w: the envelope names key %.200q of provider %.40q; configure a provider of that kind", provider.ErrUntrustedKey, e.KeyID, e.Provider)
	}
	return "", fmt.Errorf("envelope: under key %.200q of provider %q: %w", e.KeyID, e.Provider, errors.Join(failures...))
}

// inOrder returns the providers of the envelope's type, first those whose key it names. So the
// string does not wait for another provider whose key service is down.
func (d *Decrypter) inOrder(e *Envelope) []provider.EncryptionProvider {
	var named, others []provider.EncryptionProvider
	for _, p := range d.Providers {
		switch {
		case string(p.Type()) != e.Provider:
		case e.IsUnder(p):
			named = append(named, p)
		default:
			others = append(others, p)
		}
	}
	return append(named, others...)
}

// IsUnder reports whether an envelope names a provider's key and has a ciphertext of pikokms: a
// message, or a value that the key service of a provider.DirectEncrypter itself encrypted.
func (e *Envelope) IsUnder(p provider.EncryptionProvider) bool {
	if own := keyID(p); own == "" || e.Provider != string(p.Type()) || e.KeyID != own || e.EncryptedDataKey != "" {
		return false
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	return err == nil && (encryptsDirectly(p) || header.Sniff(ciphertext))
}

func encryptsDirectly(p provider.EncryptionProvider) bool {
	d, ok := p.(provider.DirectEncrypter)
	return ok && d.EncryptsDirectly()
}

// keyID returns the name of a provider's key, or nothing.
func keyID(p provider.EncryptionProvider) string {
	if named, ok := p.(interface{ KeyID() string }); ok {
		return named.KeyID()
	}
	return ""
}

// isPikoV2 reports whether a ciphertext is a string that Piko encrypted itself. Such a string
// begins with a random IV, and one IV in eight million looks like the first bytes of a message.
// Where old strings are allowed, the whole header decides.
func (e *Envelope) isPikoV2(ciphertext []byte, allowed bool) bool {
	if e.EncryptedDataKey != "" {
		return true
	}
	if e.Provider != "local_aes_gcm" {
		return false
	}
	if !allowed {
		return !header.Sniff(ciphertext)
	}
	_, _, err := header.Parse(ciphertext, header.Limits{})
	return err != nil
}

// decryptPikoV2 opens an IV, ciphertext and tag that Piko sealed without additional data.
func decryptPikoV2(ctx context.Context, p provider.EncryptionProvider, e *Envelope, sealed []byte) (plaintext string, err error) {
	keyring, ok := p.(provider.PikoV2Keyring)
	if !ok {
		return "", fmt.Errorf("%w: this provider reads no strings from before pikokms", provider.ErrInvalidProvider)
	}
	if len(sealed) < gcm.IVSize+gcm.TagSize {
		return "", fmt.Errorf("%w: the ciphertext has %d bytes, less than an IV and a tag", provider.ErrInvalidCiphertext, len(sealed))
	}
	key, err := keyring.UnwrapPikoV2(ctx, e.EncryptedDataKey)
	if err != nil {
		return "", err
	}
	defer key.Close()
	err = key.WithAccess(func(k []byte) error {
		block, err := aes.NewCipher(k)
		if err != nil {
			return fmt.Errorf("%w: %w", provider.ErrInvalidKey, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		b, err := aead.Open(nil, sealed[:gcm.IVSize], sealed[gcm.IVSize:], nil)
		if err != nil {
			return fmt.Errorf("%w: the string does not open: another key, or changed data", provider.ErrDecryptionFailed)
		}
		defer clear(b)
		plaintext = string(b)
		return nil
	})
	return plaintext, err
}
