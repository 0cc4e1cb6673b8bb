package awskms

import (
	"context"
	"fmt"

	"piko.sh/pikokms/provider"
)

// UnwrapS3EC implements provider.S3ECKeyring with KMS Decrypt. It tries the trusted keys as
// DecryptDirectly does.
func (p *keyring) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	key, err := p.unwrapS3EC(ctx, wrapped)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapS3EC", err)
	}
	return key, nil
}

func (p *keyring) unwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	if wrapped.Algorithm != "kms+context" && wrapped.Algorithm != "kms" {
		return nil, fmt.Errorf("%w: its data key is wrapped by %.100q, not by AWS KMS", provider.ErrUntrustedKey, wrapped.Algorithm)
	}
	plain, err := p.decryptTrusted(ctx, wrapped.Ciphertext, wrapped.Context)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return provider.NewSecureBytes(plain)
}

var _ provider.S3ECKeyring = (*keyring)(nil)
