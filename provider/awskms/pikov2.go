package awskms

import (
	"context"
	"encoding/base64"
	"fmt"

	"piko.sh/pikokms/provider"
)

// UnwrapPikoV2 implements provider.PikoV2Keyring with KMS Decrypt, without an encryption context.
// It tries the trusted keys as DecryptDirectly does. It refuses an empty text, since data are never
// sealed under a KMS key itself.
func (p *keyring) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	key, err := p.unwrapPikoV2(ctx, wrapped)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapPikoV2", err)
	}
	return key, nil
}

func (p *keyring) unwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	const keySize = 32
	if wrapped == "" {
		return nil, fmt.Errorf("%w: it has no wrapped data key", provider.ErrInvalidCiphertext)
	}
	blob, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil || len(blob) == 0 {
		return nil, fmt.Errorf("%w: the wrapped data key is not base64", provider.ErrInvalidCiphertext)
	}
	plain, err := p.decryptTrusted(ctx, blob, nil)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) != keySize {
		return nil, fmt.Errorf("%w: what was wrapped is no data key of %d bytes", provider.ErrInvalidCiphertext, keySize)
	}
	return provider.NewSecureBytes(plain)
}

var _ provider.PikoV2Keyring = (*keyring)(nil)
