package service

import (
	"context"
	"encoding/base64"

	"piko.sh/pikokms/envelope"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// Owns reports whether an envelope names the provider's key and is of a kind that pikokms writes: a message, or a value that
// KMS encrypted itself.
func (s *Service) Owns(e *envelope.Envelope) bool {
	named, ok := s.inner.(interface{ KeyID() string })
	if !ok || e.Provider != string(s.Type()) || e.KeyID != named.KeyID() || e.EncryptedDataKey != "" {
		return false
	}
	ciphertext, err := base64.StdEncoding.DecodeString(e.Ciphertext)
	return err == nil && (header.Sniff(ciphertext) || s.Type() == provider.TypeAWSKMS)
}

// ReEncrypt moves a string from another service's key to this one's, without decrypting it here. It reports ok only for what
// AWS KMS can do: a string that KMS encrypted itself, under from's key, with both keys in one Region. The error is the
// provider's.
func (s *Service) ReEncrypt(ctx context.Context, from *Service, e *envelope.Envelope, encryptionContext map[string]string) (text string, ok bool, err error) {
	to, isKMS := s.inner.(*awskms.Provider)
	source, fromKMS := from.inner.(*awskms.Provider)
	ciphertext, decodeErr := base64.StdEncoding.DecodeString(e.Ciphertext)
	if !isKMS || !fromKMS || !from.Owns(e) || decodeErr != nil || header.Sniff(ciphertext) || source.Region() != to.Region() {
		return "", false, nil
	}
	response, err := guard(ctx, s, "ReEncrypt", func(ctx context.Context) (*provider.EncryptResponse, error) {
		return to.ReEncrypt(ctx, source.KeyID(), &provider.DecryptRequest{Ciphertext: e.Ciphertext, Context: encryptionContext})
	})
	if err != nil {
		return "", true, err
	}
	text, err = envelope.New(response.KeyID, response.Provider, response.Ciphertext)
	return text, true, err
}
