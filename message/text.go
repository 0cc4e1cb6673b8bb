package message

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// TextContext returns the encryption context of a message of EncryptText: the stated pairs, and
// provider.PairUse, which says that the message is a string. The error holds
// header.ErrInvalidContext for a reserved pair.
func TextContext(stated map[string]string) (map[string]string, error) {
	if err := provider.CheckStated(stated); err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(stated)+1)
	maps.Copy(pairs, stated)
	pairs[provider.PairUse] = provider.UseString
	return pairs, nil
}

// EncryptText encrypts a request's plaintext under a data key of keyring, and returns a message as
// base64 text. Providers use it as their Encrypt if their key service encrypts no values itself, or
// none of that size. The message has the encryption context of TextContext.
func EncryptText(ctx context.Context, keyring provider.Keyring, request *provider.EncryptRequest) (string, error) {
	pairs, err := TextContext(request.Context)
	if err != nil {
		return "", fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	e := Encrypter{Keyring: keyring}
	ciphertext, err := e.Encrypt(ctx, []byte(request.Plaintext), pairs)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(ciphertext), nil
}

// DecryptText decrypts a message of EncryptText, after base64. Its encryption context must be the
// request's. For a message that is not a string, the error holds provider.ErrContextMismatch, and
// no key service is asked.
func DecryptText(ctx context.Context, keyring provider.Keyring, ciphertext []byte, request *provider.DecryptRequest) (string, error) {
	pairs, err := TextContext(request.Context)
	if err != nil {
		return "", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	d := Decrypter{Keyrings: []provider.Keyring{keyring}, Accept: acceptText}
	plaintext, got, err := d.Decrypt(ctx, ciphertext, pairs)
	if err != nil {
		return "", err
	}
	if !maps.Equal(got, pairs) {
		return "", fmt.Errorf("%w: it has pairs that were not stated", provider.ErrContextMismatch)
	}
	return string(plaintext), nil
}

func acceptText(h *header.Header) error {
	if use := h.EncryptionContext[provider.PairUse]; use != provider.UseString {
		return fmt.Errorf("%w: the message is no string: the pair %q of its encryption context is %.40q, not %q", provider.ErrContextMismatch, provider.PairUse, use, provider.UseString)
	}
	return nil
}
