package gcpkms

import (
	"context"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// GenerateDataKey makes a data key from the system's random numbers, which Cloud KMS encrypts with
// one call.
func (p *keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	under, err := p.named(p.under)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", p.own, err)
	}
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", under, err)
	}
	wrapped, err := p.wrap(ctx, under, key, encryptionContext)
	if err != nil {
		return nil, errors.Join(p.fail(ctx, "GenerateDataKey", under, err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: under}, nil
}

// WrapDataKey makes one call of Cloud KMS.
func (p *keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	under, err := p.named(p.under)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", p.own, err)
	}
	wrapped, err := p.wrap(ctx, under, key, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", under, err)
	}
	return wrapped, nil
}

func (p *keyring) wrap(ctx context.Context, under string, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped := header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(under)}
	err := key.WithAccess(func(plain []byte) (err error) {
		wrapped.Ciphertext, err = p.encrypt(ctx, under, plain, encryptionContext)
		return err
	})
	return wrapped, err
}

// UnwrapDataKey makes one call of Cloud KMS, or none if the provider does not trust the wrapping
// key.
func (p *keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if _, err := p.candidates(); err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", p.own, err)
	}
	under := string(request.EncryptedKey.ProviderInfo)
	if request.EncryptedKey.ProviderID != providerID || !p.keys.trusts(under) {
		return nil, p.fail(ctx, "UnwrapDataKey", p.own, provider.ErrUntrustedKey)
	}
	answer, err := p.decrypt(ctx, under, request.EncryptedKey.Ciphertext, request.Context)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", under, err)
	}
	plain := answer.Plaintext
	defer clear(plain)
	if len(plain) != request.Size {
		return nil, p.fail(ctx, "UnwrapDataKey", under, fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(plain), request.Size))
	}
	key, err := provider.NewSecureBytes(plain)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", under, err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

// IsCurrent makes one call of Cloud KMS, or none for a data key under another key. Only Cloud KMS
// knows the version of a ciphertext, and returns it when it decrypts.
func (p *keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	under := p.own
	if p.under != "" {
		candidates, err := p.candidates()
		if err != nil {
			return false, p.fail(ctx, "IsCurrent", p.own, err)
		}
		under = candidates[0]
	}
	if request.EncryptedKey.ProviderID != providerID || string(request.EncryptedKey.ProviderInfo) != under {
		return false, nil
	}
	answer, err := p.decrypt(ctx, under, request.EncryptedKey.Ciphertext, request.Context)
	if err != nil {
		return false, p.fail(ctx, "IsCurrent", under, err)
	}
	clear(answer.Plaintext)
	return answer.UsedPrimary, nil
}
