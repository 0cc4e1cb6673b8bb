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

// GenerateDataKey implements provider.Keyring with one call of the server.
func (p *Provider) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	key, wrapped, err := p.generateDataKey(ctx, request)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", err)
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: p.id, Provider: p.Type()}, nil
}

func (p *Provider) generateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.SecureBytes, header.EncryptedDataKey, error) {
	var none header.EncryptedDataKey
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, none, err
	}
	size := 32
	switch request.KeySpec {
	case "", "AES_256":
	case "AES_128":
		size = 16
	default:
		return nil, none, fmt.Errorf("%w: key spec %q is neither AES_256 nor AES_128", provider.ErrInvalidKey, request.KeySpec)
	}
	additional, err := header.AppendContext(nil, request.Context)
	if err != nil {
		return nil, none, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	if err := p.open(ctx); err != nil {
		return nil, none, err
	}
	plain, ciphertext, err := p.generate(ctx, size, additional)
	defer clear(plain)
	if err != nil {
		return nil, none, err
	}
	key, err := provider.NewSecureBytes(plain)
	return key, p.wrapped(ciphertext), err
}

// generateHere makes a data key from the system's random numbers, and has the server encrypt it.
func (p *Provider) generateHere(ctx context.Context, size int, additional []byte) (plain []byte, ciphertext string, err error) {
	plain = make([]byte, size)
	_, _ = rand.Read(plain) // never fails
	ciphertext, err = p.encrypt(ctx, plain, additional)
	return plain, ciphertext, err
}

func (p *Provider) wrapped(ciphertext string) header.EncryptedDataKey {
	return header.EncryptedDataKey{ProviderID: ProviderID, ProviderInfo: []byte(p.id), Ciphertext: []byte(ciphertext)}
}

// WrapDataKey implements provider.Keyring with one call of the server.
func (p *Provider) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
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

// UnwrapDataKey implements provider.Keyring with one call of the server, or none for a data key
// under another key.
func (p *Provider) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	key, err := p.unwrap(ctx, request)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", err)
	}
	return key, nil
}

func (p *Provider) unwrap(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	if request.EncryptedKey.ProviderID != ProviderID || string(request.EncryptedKey.ProviderInfo) != p.id {
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

// IsCurrent implements provider.VersionedKeyring with one or two calls of the server, or none for a
// data key under another key. It has the server make a data key, which shows the version with which
// it wraps now. If that is the data key's own, it has the server unwrap the data key, since keys of
// two servers may have one path and the same versions. It is false if the policy forbids that.
func (p *Provider) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	if request.EncryptedKey.ProviderID != ProviderID || string(request.EncryptedKey.ProviderInfo) != p.id {
		return false, nil
	}
	key, made, err := p.generateDataKey(ctx, &provider.GenerateDataKeyRequest{Context: request.Context})
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
