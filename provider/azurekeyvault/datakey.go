package azurekeyvault

import (
	"context"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// maxWrappedAES is the size in bytes of the largest data key under an AES key: a digest, a data key
// of 32 bytes, and the 8 bytes that AES key wrap adds. Under RSA keys, data keys have at least 256
// bytes.
const maxWrappedAES = sha512.Size384 + provider.DataKeySize + 8

// digest returns the SHA-384 of a serialised encryption context. Neither RSA-OAEP nor AES key wrap
// takes a context, so this digest and the data key are wrapped together, which binds one to the
// other. AWS's keyring of RSA keys does the same (specification:
// framework/aws-kms/aws-kms-rsa-keyring.md, "OnEncrypt").
func digest(encryptionContext map[string]string) ([]byte, error) {
	serialised, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(serialised)
	return sum[:], nil
}

// GenerateDataKey makes a data key from the system's random numbers. It asks the vault for the
// current version of the key at most once an hour. Under an RSA key, it makes no other call. Under
// an AES key, it makes one more, to wrap the data key.
func (p *keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", err)
	}
	wrapped, err := p.wrapKey(ctx, key, encryptionContext)
	if err != nil {
		return nil, errors.Join(p.fail(ctx, "GenerateDataKey", err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: p.id}, nil
}

// WrapDataKey makes the calls of GenerateDataKey.
func (p *keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped, err := p.wrapKey(ctx, key, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	return wrapped, nil
}

func (p *keyring) wrapKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if p.closed.Load() {
		return header.EncryptedDataKey{}, fmt.Errorf("the provider: %w", provider.ErrClosed)
	}
	bound, err := digest(encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	v, err := p.current(ctx)
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	wrapped := header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(p.id + "/" + v.version)}
	err = key.WithAccess(func(plain []byte) (err error) {
		input := append(append(make([]byte, 0, len(bound)+len(plain)), bound...), plain...)
		defer clear(input)
		wrapped.Ciphertext, err = p.wrap(ctx, v, input)
		return err
	})
	return wrapped, err
}

// UnwrapDataKey makes one call of the vault, or none for a data key under another key. Any version
// of the key unwraps, whichever is configured.
func (p *keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := p.unwrapKey(ctx, request)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

func (p *keyring) unwrapKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	under, ok := p.versionIn(request.EncryptedKey)
	if !ok {
		return nil, provider.ErrUntrustedKey
	}
	want, err := digest(request.Context)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
	}
	plain, err := p.unwrap(ctx, under, request.EncryptedKey.Ciphertext)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if len(plain) < len(want) || subtle.ConstantTimeCompare(plain[:len(want)], want) != 1 {
		return nil, fmt.Errorf("%w: the data key is for another encryption context", provider.ErrDecryptionFailed)
	}
	key := plain[len(want):]
	if len(key) != request.Size {
		return nil, fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(key), request.Size)
	}
	return provider.NewSecureBytes(key)
}

// versionIn returns the version of the provider's key that a data key names.
func (p *keyring) versionIn(wrapped header.EncryptedDataKey) (string, bool) {
	named, ok := strings.CutPrefix(string(wrapped.ProviderInfo), p.id+"/")
	return named, ok && wrapped.ProviderID == providerID && versionID.MatchString(named)
}

// IsCurrent compares the version that the data key names with the one under which the provider
// encrypts. So it makes at most the call for the current version, and none for a data key under
// another key.
func (p *keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	named, ok := p.versionIn(request.EncryptedKey)
	if !ok {
		return false, nil
	}
	v, err := p.current(ctx)
	if err != nil {
		return false, p.fail(ctx, "IsCurrent", err)
	}
	return named == v.version, nil
}
