package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// GenerateDataKey makes one call of the server.
func (p *keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, wrapped, err := p.generateDataKey(ctx, encryptionContext)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", err)
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: p.id}, nil
}

func (p *keyring) generateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.SecureBytes, header.EncryptedDataKey, error) {
	var none header.EncryptedDataKey
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return nil, none, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	if err := p.open(ctx); err != nil {
		return nil, none, err
	}
	plain, ciphertext, err := p.generate(ctx, additional)
	defer clear(plain)
	if err != nil {
		return nil, none, err
	}
	key, err := provider.NewSecureBytes(plain)
	return key, p.wrapped(ciphertext), err
}

// generateLocally makes a data key from the system's random numbers, which the server encrypts.
func (p *keyring) generateLocally(ctx context.Context, additional []byte) (plain []byte, ciphertext string, err error) {
	plain = make([]byte, provider.DataKeySize)
	_, _ = rand.Read(plain) // never fails
	ciphertext, err = p.encrypt(ctx, plain, additional)
	return plain, ciphertext, err
}

func (p *keyring) wrapped(ciphertext string) header.EncryptedDataKey {
	return header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(p.id), Ciphertext: []byte(ciphertext)}
}

// WrapDataKey makes one call of the server.
func (p *keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err))
	}
	if err := p.open(ctx); err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	var ciphertext string
	err = key.WithAccess(func(plain []byte) (err error) {
		ciphertext, err = p.encrypt(ctx, plain, additional)
		return err
	})
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	return p.wrapped(ciphertext), nil
}

// UnwrapDataKey makes one call of the server, or none for a data key under another key.
func (p *keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := p.unwrap(ctx, request)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

func (p *keyring) unwrap(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	if request.EncryptedKey.ProviderID != providerID || string(request.EncryptedKey.ProviderInfo) != p.id {
		return nil, provider.ErrUntrustedKey
	}
	additional, err := header.AppendContext(nil, request.Context)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
	}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	plain, err := p.decrypt(ctx, string(request.EncryptedKey.Ciphertext), additional)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) != request.Size {
		return nil, fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(plain), request.Size)
	}
	return provider.NewSecureBytes(plain)
}

// IsCurrent makes one or two calls of the server, or none for a data key under another key. The
// first makes a new data key, which shows the version with which the server wraps now. If that is
// the data key's own, the second unwraps the data key, since keys of two servers may have one path
// and the same versions. IsCurrent is false if the policy forbids that.
func (p *keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	if request.EncryptedKey.ProviderID != providerID || string(request.EncryptedKey.ProviderInfo) != p.id {
		return false, nil
	}
	key, made, err := p.generateDataKey(ctx, request.Context)
	if err != nil {
		return false, p.fail(ctx, "IsCurrent", err)
	}
	if err := key.Close(); err != nil || message.KeyVersion(request.EncryptedKey) != message.KeyVersion(made) {
		return false, err
	}
	key, err = p.unwrap(ctx, request)
	if errors.Is(err, provider.ErrAccessDenied) {
		return false, nil
	}
	if err != nil {
		return false, p.fail(ctx, "IsCurrent", err)
	}
	return true, key.Close()
}
