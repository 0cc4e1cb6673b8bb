package envelope

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/text"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Seal encrypts a string under a provider's key, with one call of its key service. If the provider
// is a provider.DirectEncrypter that takes a value of this size, the ciphertext is the key
// service's own. Otherwise it is a message under a data key, whose encryption context also has
// the pair provider.PairUse, which marks it as a string. An empty string is always a message.
//
// The error holds header.ErrInvalidContext for a reserved pair, or is the provider's.
func Seal(ctx context.Context, p provider.EncryptionProvider, plaintext string, encryptionContext map[string]string) (*Envelope, error) {
	e, err := seal(ctx, p, plaintext, encryptionContext)
	if err != nil {
		return nil, Fail(p, "Encrypt", err)
	}
	return e, nil
}

func seal(ctx context.Context, p provider.EncryptionProvider, plaintext string, encryptionContext map[string]string) (*Envelope, error) {
	if d, ok := p.(provider.DirectEncrypter); ok && plaintext != "" && d.EncryptsDirectly() {
		if err := errors.Join(header.CheckContext(encryptionContext), provider.CheckStated(encryptionContext)); err != nil {
			return nil, err
		}
		value := []byte(plaintext)
		defer clear(value)
		ciphertext, keyID, err := d.EncryptDirectly(ctx, value, encryptionContext)
		if err != nil {
			return nil, err
		}
		if ciphertext != nil {
			return envelopeOf(p, keyID, ciphertext), nil
		}
	}
	ciphertext, err := text.Encrypt(ctx, p, plaintext, encryptionContext)
	if err != nil {
		return nil, err
	}
	h, _, err := header.Parse(ciphertext, header.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	return envelopeOf(p, message.KeyName(h.EncryptedDataKeys[0]), ciphertext), nil
}

func envelopeOf(p provider.EncryptionProvider, keyID string, ciphertext []byte) *Envelope {
	return &Envelope{KeyID: keyID, Provider: string(p.Type()), Ciphertext: base64.StdEncoding.EncodeToString(ciphertext), Version: version}
}

// Open decrypts the ciphertext of an envelope of Seal, which is base64. The encryption context must
// equal that of Seal. The error holds provider.ErrInvalidCiphertext or provider.ErrContextMismatch,
// or is the provider's.
func Open(ctx context.Context, p provider.EncryptionProvider, ciphertext string, encryptionContext map[string]string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(ciphertext)
	if err != nil {
		return "", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err)
	}
	return open(ctx, p, b, encryptionContext)
}

func open(ctx context.Context, p provider.EncryptionProvider, ciphertext []byte, encryptionContext map[string]string) (string, error) {
	d, ok := p.(provider.DirectEncrypter)
	if !ok || header.Sniff(ciphertext) {
		return text.Decrypt(ctx, p, ciphertext, encryptionContext)
	}
	if err := provider.CheckStated(encryptionContext); err != nil {
		return "", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	value, err := d.DecryptDirectly(ctx, ciphertext, encryptionContext)
	if err != nil {
		return "", err
	}
	defer clear(value)
	return string(value), nil
}

// ReEncrypt moves a string from the key of one provider to that of another, without decrypting it
// here, and returns its envelope's text. ok is true only if the key service can do so: to is a
// provider.ReEncrypter that accepts values from the other one, and the key service itself encrypted
// the string under the key of from. The error is the provider's.
func ReEncrypt(ctx context.Context, to, from provider.EncryptionProvider, e *Envelope, encryptionContext map[string]string) (text string, ok bool, err error) {
	r, ok := to.(provider.ReEncrypter)
	if !ok || !e.IsUnder(from) || !r.CanReEncrypt(from) {
		return "", false, nil
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	if err != nil || header.Sniff(ciphertext) {
		return "", false, nil
	}
	if err := provider.CheckStated(encryptionContext); err != nil {
		return "", true, Fail(to, "ReEncrypt", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	moved, keyID, err := r.ReEncrypt(ctx, from, ciphertext, encryptionContext)
	if err != nil {
		return "", true, err
	}
	text, err = New(keyID, to.Type(), base64.StdEncoding.EncodeToString(moved))
	return text, true, err
}

// Fail wraps the error of an operation as provider.Failure does. If err is already a provider's, it
// keeps the provider and the key that err names.
func Fail(p provider.EncryptionProvider, operation string, err error) error {
	if inner, ok := err.(*provider.EncryptionError); ok {
		return provider.Failure(operation, provider.Type(inner.Provider), inner.KeyID, err)
	}
	return provider.Failure(operation, p.Type(), keyID(p), err)
}
