// Package text encrypts strings as messages that are marked as strings, so that no message of
// another use passes for one.
package text

import (
	"context"
	"fmt"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Context returns the encryption context of a message of Encrypt: the stated pairs, and the pair
// provider.PairUse, which marks the message as a string. The error holds header.ErrInvalidContext
// for a reserved pair.
func Context(stated map[string]string) (map[string]string, error) {
	if err := provider.CheckStated(stated); err != nil {
		return nil, err
	}
	pairs := make(map[string]string, len(stated)+1)
	maps.Copy(pairs, stated)
	pairs[provider.PairUse] = provider.UseString
	return pairs, nil
}

// Encrypt encrypts a string under a data key of keyring, and returns a message. The message has the
// encryption context of [Context].
func Encrypt(ctx context.Context, keyring provider.Wrapper, plaintext string, stated map[string]string) ([]byte, error) {
	pairs, err := Context(stated)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	e := message.Encrypter{Keyring: keyring}
	return e.Encrypt(ctx, []byte(plaintext), pairs)
}

// Decrypt decrypts a message of Encrypt, for which the same pairs were stated. For a message that
// is not a string, the error holds provider.ErrContextMismatch, and no key service is asked.
func Decrypt(ctx context.Context, keyring provider.Unwrapper, ciphertext []byte, stated map[string]string) (string, error) {
	pairs, err := Context(stated)
	if err != nil {
		return "", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{keyring}, Accept: accept}
	plaintext, got, err := d.Decrypt(ctx, ciphertext, pairs)
	if err != nil {
		return "", err
	}
	if !maps.Equal(got, pairs) {
		return "", fmt.Errorf("%w: it has pairs that were not stated", provider.ErrContextMismatch)
	}
	return string(plaintext), nil
}

func accept(h *header.Header) error {
	if use := h.EncryptionContext[provider.PairUse]; use != provider.UseString {
		return fmt.Errorf("%w: the message is no string: the pair %q of its encryption context is %.40q, not %q", provider.ErrContextMismatch, provider.PairUse, use, provider.UseString)
	}
	return nil
}
