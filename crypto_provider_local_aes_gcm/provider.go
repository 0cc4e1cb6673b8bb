// Package crypto_provider_local_aes_gcm is Piko's encryption provider under a local AES key, built
// on pikokms. It is for development and single machines:
//
//	local, err := crypto_provider_local_aes_gcm.NewProvider(crypto_provider_local_aes_gcm.Config{
//		Key: key, KeyID: "dev",
//	})
//	…
//	ssr := piko.New(
//		piko.WithCryptoProvider("local", local), piko.WithDefaultCryptoProvider("local"),
//	)
//
// It has the names of Piko's own package, and stands between Piko's crypto service and package
// local. Strings and streams are AWS Encryption SDK messages, so an application behaves with it as
// with AWS KMS. AWS's SDKs open them with a raw AES keyring of namespace "piko" and the KeyID as
// name.
//
// The import path differs from that of Piko's package, which lies in Piko's main module: Go refuses
// a package that two modules contain.
package crypto_provider_local_aes_gcm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"sync"

	"piko.sh/piko/internal/crypto/crypto_dto"
	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/dropin"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// The sizes that Piko's package also exports.
const (
	KeySize = 32 // of the key, in bytes
	IVSize  = 12 // of AES-GCM, in bytes
)

const (
	tagSize      = 16 // of AES-GCM, in bytes
	defaultKeyID = "local-default"
)

// The errors that Piko's package also exports.
var (
	ErrInvalidKeySize     = fmt.Errorf("%w: it must have %d bytes", crypto.ErrInvalidKey, KeySize)
	ErrEmptyPlaintext     = crypto.ErrEmptyPlaintext
	ErrEmptyCiphertext    = crypto.ErrEmptyCiphertext
	ErrCiphertextTooShort = fmt.Errorf("%w: it is shorter than an IV and a tag", crypto.ErrInvalidCiphertext)
	ErrInvalidBase64      = fmt.Errorf("%w: it is not base64", crypto.ErrInvalidCiphertext)
)

// names pairs errors of package provider with those of Piko that mean the same.
var names = dropin.Names{
	{Ours: provider.ErrKeyNotFound, Pikos: crypto.ErrKeyNotFound},
	{Ours: provider.ErrInvalidKey, Pikos: crypto.ErrInvalidKey},
	{Ours: provider.ErrInvalidCiphertext, Pikos: crypto.ErrInvalidCiphertext},
	{Ours: provider.ErrContextMismatch, Pikos: crypto.ErrContextMismatch},
	{Ours: provider.ErrDecryptionFailed, Pikos: crypto.ErrDecryptionFailed},
	{Ours: provider.ErrUntrustedKey, Pikos: crypto.ErrDecryptionFailed},
	{Ours: provider.ErrEncryptionFailed, Pikos: crypto.ErrEncryptionFailed},
	{Ours: provider.ErrEmptyPlaintext, Pikos: crypto.ErrEmptyPlaintext},
	{Ours: provider.ErrEmptyCiphertext, Pikos: crypto.ErrEmptyCiphertext},
}

// Config is the key and its name.
type Config struct {
	KeyID string // default "local-default"
	Key   []byte // KeySize bytes; the caller may zero them once NewProvider has returned

	// AllowPikoV2 lets Decrypt and DecryptStream also read what Piko's own provider encrypted under
	// this key. pikokms.AllowPikoV2 says what an attacker can do while it is set. Set it only while
	// such data remain.
	AllowPikoV2 bool
}

// cryptoProvider implements crypto.EncryptionProvider.
type cryptoProvider struct {
	adapter dropin.Adapter
	close   func() error
}

// NewProvider makes a provider. The error holds ErrInvalidKeySize, or crypto.ErrInvalidKey for a
// KeyID that is not UTF-8 or longer than 1,024 bytes.
//
// Like Piko's own provider, it has one key and uses it whatever key a request names. Responses name
// the key that was used. Only GetKeyInfo refuses other names. It is safe for concurrent use. It is
// also an [io.Closer], which zeroes the key, and which Piko closes when it shuts down.
func NewProvider(config Config) (crypto.EncryptionProvider, error) {
	if len(config.Key) != KeySize {
		return nil, fmt.Errorf("%w, and has %d", ErrInvalidKeySize, len(config.Key))
	}
	if config.KeyID == "" {
		config.KeyID = defaultKeyID
	}
	key, err := local.NewProvider(local.Config{Key: bytes.Clone(config.Key), Name: config.KeyID})
	if err != nil {
		return nil, names.Translate(err)
	}
	guarded := service.New(key, service.Config{})
	return &cryptoProvider{
		adapter: dropin.Adapter{
			Provider: key, Service: guarded, Names: names,
			OwnKeyID: crypto.DefaultServiceConfig().ActiveKeyID, AllowPikoV2: config.AllowPikoV2,
		},
		close: sync.OnceValue(func() error { return errors.Join(guarded.Close(), key.Close()) }),
	}, nil
}

// Unwrap returns the pikokms provider within, for packages of pikokms that take one.
func (p *cryptoProvider) Unwrap() provider.EncryptionProvider { return p.adapter.Provider }

// Close zeroes the key. The provider can't be used afterwards. Piko calls it when it shuts down.
func (p *cryptoProvider) Close() error { return p.close() }

// Type implements crypto.EncryptionProvider.
func (p *cryptoProvider) Type() crypto.ProviderType {
	return crypto.ProviderType(p.adapter.Provider.Type())
}

// Encrypt implements crypto.EncryptionProvider.
func (p *cryptoProvider) Encrypt(ctx context.Context, request *crypto.EncryptRequest) (*crypto.EncryptResponse, error) {
	ciphertext, keyID, err := p.adapter.Encrypt(ctx, request.Plaintext, request.KeyID, request.Context)
	if err != nil {
		return nil, err
	}
	return &crypto.EncryptResponse{Ciphertext: ciphertext, KeyID: keyID, Provider: p.Type()}, nil
}

// Decrypt implements crypto.EncryptionProvider.
func (p *cryptoProvider) Decrypt(ctx context.Context, request *crypto.DecryptRequest) (*crypto.DecryptResponse, error) {
	plaintext, err := p.adapter.Decrypt(ctx, request.Ciphertext, request.KeyID, request.Context)
	if errors.Is(err, provider.ErrInvalidCiphertext) {
		plaintext, err = p.decryptOld(ctx, request)
	}
	if err != nil {
		return nil, err
	}
	return &crypto.DecryptResponse{Plaintext: plaintext}, nil
}

// decryptOld decrypts a ciphertext that is no message: one of Piko's own provider, or garbage.
func (p *cryptoProvider) decryptOld(ctx context.Context, request *crypto.DecryptRequest) (string, error) {
	sealed, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return "", names.Translate(fmt.Errorf("%w: %w", ErrInvalidBase64, err))
	}
	if len(sealed) < IVSize+tagSize {
		return "", names.Translate(fmt.Errorf("%w: %d bytes", ErrCiphertextTooShort, len(sealed)))
	}
	return p.adapter.DecryptPikoV2(ctx, request.Ciphertext, request.Context)
}

// GenerateDataKey implements crypto.EncryptionProvider. The wrapped key is the data key's base64
// text, encrypted as a string, since Piko passes it to Decrypt.
func (p *cryptoProvider) GenerateDataKey(ctx context.Context, request *crypto.GenerateDataKeyRequest) (*crypto.DataKey, error) {
	var key *crypto.DataKey
	err := p.adapter.GenerateDataKey(ctx, request.KeyID, request.KeySpec, func(made *provider.DataKey, plain []byte) error {
		wrapped, _, err := p.adapter.Encrypt(ctx, base64.StdEncoding.EncodeToString(plain), request.KeyID, nil)
		if err != nil {
			return err
		}
		secret, err := crypto_dto.NewSecureBytesFromSlice(plain, crypto_dto.WithID("data key of "+made.KeyID))
		key = &crypto.DataKey{PlaintextKey: secret, EncryptedKey: wrapped, KeyID: made.KeyID, Provider: p.Type()}
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// GetKeyInfo implements crypto.EncryptionProvider.
func (p *cryptoProvider) GetKeyInfo(ctx context.Context, keyID string) (*crypto.KeyInfo, error) {
	info, status, err := p.adapter.GetKeyInfo(ctx, keyID)
	if err != nil {
		return nil, err
	}
	metadata := map[string]string{"iv_size": strconv.Itoa(IVSize), "tag_size": strconv.Itoa(tagSize)}
	maps.Copy(metadata, info.Metadata)
	return &crypto.KeyInfo{
		CreatedAt: info.CreatedAt,
		Metadata:  metadata,
		KeyID:     info.KeyID,
		Provider:  p.Type(),
		Algorithm: info.Algorithm,
		Status:    crypto.KeyStatus(status),
		Origin:    info.Origin,
	}, nil
}

// HealthCheck implements crypto.EncryptionProvider.
func (p *cryptoProvider) HealthCheck(ctx context.Context) error {
	return names.Translate(p.adapter.Service.HealthCheck(ctx))
}

// EncryptStream implements crypto.EncryptionProvider. It writes an AWS Encryption SDK message,
// which is complete when Close returns nil.
func (p *cryptoProvider) EncryptStream(ctx context.Context, output io.Writer, request *crypto.EncryptRequest) (io.WriteCloser, error) {
	return p.adapter.EncryptStream(ctx, output, request.KeyID, request.Context)
}

// DecryptStream implements crypto.EncryptionProvider.
func (p *cryptoProvider) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	return p.adapter.DecryptStream(ctx, input)
}

var _ crypto.EncryptionProvider = (*cryptoProvider)(nil)
