package local

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/base64"
	"fmt"

	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/provider"
)

// UnwrapPikoV2 implements provider.PikoV2Keyring. Piko's local keys have 32 bytes. For a key of
// another size the error holds provider.ErrInvalidKey.
func (p *keyring) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	key, err := p.unwrapPikoV2(ctx, wrapped)
	if err != nil {
		return nil, p.fail("UnwrapPikoV2", err)
	}
	return key, nil
}

func (p *keyring) unwrapPikoV2(ctx context.Context, wrapped string) (key *provider.SecureBytes, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	own, ok := p.key.(aesKey)
	if !ok || own.Len() != keySize {
		return nil, fmt.Errorf("%w: it is of kind %s, Piko's had AES keys of %d bytes", provider.ErrInvalidKey, p.key.algorithm(), keySize)
	}
	if wrapped == "" {
		err = own.WithAccess(func(raw []byte) (err error) {
			key, err = provider.NewSecureBytes(bytes.Clone(raw))
			return err
		})
		return key, err
	}

	// A wrapped data key consists of IV, ciphertext and tag. The plaintext is the data key's base64
	// text.
	size := gcm.IVSize + base64.StdEncoding.EncodedLen(keySize) + gcm.TagSize
	sealed, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil || len(sealed) != size {
		return nil, fmt.Errorf("%w: the wrapped data key is not base64 of %d bytes", provider.ErrInvalidCiphertext, size)
	}
	err = own.withCipher(nil, func(aead cipher.AEAD, _ []byte) error {
		text, err := aead.Open(nil, sealed[:gcm.IVSize], sealed[gcm.IVSize:], nil)
		if err != nil {
			return fmt.Errorf("%w: the data key does not open: another key, or changed data", provider.ErrDecryptionFailed)
		}
		defer clear(text)
		raw := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		defer clear(raw)
		if n, err := base64.StdEncoding.Decode(raw, text); err != nil || n != keySize {
			return fmt.Errorf("%w: what was wrapped is no data key", provider.ErrInvalidCiphertext)
		}
		key, err = provider.NewSecureBytes(raw[:keySize])
		return err
	})
	return key, err
}

var _ provider.PikoV2Keyring = (*keyring)(nil)
