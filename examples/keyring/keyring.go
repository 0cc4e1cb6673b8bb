// Package keyring shows how a program adds a key service of its own, such as a hardware security
// module. It imports public packages alone, as a package of another repository would.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// Module stands in for a hardware security module. It keeps an AES key that never leaves it.
type Module struct{ aead cipher.AEAD }

// NewModule makes a module with a random key.
func NewModule() (*Module, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &Module{aead}, err
}

// providerID names this kind of key in messages. A prefix such as your company's name keeps it
// unique. "aws-kms" is AWS's.
const providerID = "example-module"

// Keyring wraps data keys in a Module. It is a provider.EncryptionProvider.
type Keyring struct {
	Module *Module
	Name   string // of the key, in messages
}

// Type returns the name of this kind of key service in telemetry.
func (k *Keyring) Type() provider.Type { return "example_module" }

// GenerateDataKey makes a data key here, where a key service would make one in the same call.
func (k *Keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, err
	}
	wrapped, err := k.WrapDataKey(ctx, key, encryptionContext)
	if err != nil {
		_ = key.Close()
		return nil, err
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: k.Name}, nil
}

// WrapDataKey binds the wrapped key to the encryption context.
func (k *Keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped := header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(k.Name)}
	if err := ctx.Err(); err != nil {
		return wrapped, err
	}
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return wrapped, err
	}
	return wrapped, key.WithAccess(func(plain []byte) error {
		wrapped.Ciphertext = k.Module.aead.Seal(nil, nil, plain, additional)
		return nil
	})
}

// UnwrapDataKey asks the module only about data keys that name its key.
func (k *Keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	wrapped := request.EncryptedKey
	if wrapped.ProviderID != providerID || string(wrapped.ProviderInfo) != k.Name {
		return nil, provider.ErrUntrustedKey
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	additional, err := header.AppendContext(nil, request.Context)
	if err != nil {
		return nil, err
	}
	plain, err := k.Module.aead.Open(nil, nil, wrapped.Ciphertext, additional)
	if err != nil {
		return nil, fmt.Errorf("%w: the data key does not open under key %q of the module", provider.ErrDecryptionFailed, k.Name)
	}
	defer clear(plain)
	if len(plain) != request.Size {
		return nil, fmt.Errorf("%w: the data key has %d bytes, not %d", provider.ErrDecryptionFailed, len(plain), request.Size)
	}
	key, err := provider.NewSecureBytes(plain)
	if err != nil {
		return nil, err
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}
