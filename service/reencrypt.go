package service

import (
	"context"
	"encoding/base64"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/provider"
)

// Owns reports whether an envelope names the provider's key and has a ciphertext of pikokms: a
// message, or a value that the key service of a provider.DirectEncrypter itself encrypted.
func (s *Service) Owns(e *envelope.Envelope) bool {
	if own := s.KeyID(); own == "" || e.Provider != string(s.Type()) || e.KeyID != own || e.EncryptedDataKey != "" {
		return false
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	return err == nil && (s.EncryptsDirectly() || header.Sniff(ciphertext))
}

// ReEncrypt moves a string from another service's key to this one's, without decrypting it here. ok
// is true only if the key service can do so: the provider is a provider.ReEncrypter that accepts
// values from the other one, and the key service itself encrypted the string under the key of from.
// The error is the provider's.
func (s *Service) ReEncrypt(ctx context.Context, from *Service, e *envelope.Envelope, encryptionContext map[string]string) (text string, ok bool, err error) {
	to, ok := s.inner.(provider.ReEncrypter)
	if !ok || !from.Owns(e) || !to.CanReEncrypt(from.inner) {
		return "", false, nil
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	if err != nil || header.Sniff(ciphertext) {
		return "", false, nil
	}
	if err := provider.CheckStated(encryptionContext); err != nil {
		return "", true, envelope.Fail(to, "ReEncrypt", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	moved, err := guard(ctx, s, "ReEncrypt", func(ctx context.Context) (*provider.DirectValue, error) {
		return to.ReEncrypt(ctx, from.inner, ciphertext, encryptionContext)
	})
	if err != nil {
		return "", true, err
	}
	text, err = envelope.New(moved.KeyID, s.Type(), base64.StdEncoding.EncodeToString(moved.Ciphertext))
	return text, true, err
}
