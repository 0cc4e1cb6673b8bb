package service

import (
	"context"
	"encoding/base64"

	"piko.sh/pikokms/envelope"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// Owns reports whether an envelope names the provider's key and has a ciphertext of pikokms: a
// message, or a value that the key service of a provider.DirectEncrypter itself encrypted.
func (s *Service) Owns(e *envelope.Envelope) bool {
	named, ok := s.inner.(interface{ KeyID() string })
	if !ok || e.Provider != string(s.Type()) || e.KeyID != named.KeyID() || e.EncryptedDataKey != "" {
		return false
	}
	d, direct := s.inner.(provider.DirectEncrypter)
	direct = direct && d.EncryptsDirectly()
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	return err == nil && (direct || header.Sniff(ciphertext))
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
	response, err := guard(ctx, s, "ReEncrypt", func(ctx context.Context) (*provider.EncryptResponse, error) {
		return to.ReEncrypt(ctx, from.inner, &provider.DecryptRequest{Ciphertext: e.Ciphertext, Context: encryptionContext})
	})
	if err != nil {
		return "", true, err
	}
	text, err = envelope.New(response.KeyID, response.Provider, response.Ciphertext)
	return text, true, err
}
