// Package crypto_provider_gcp_kms is Piko's Google Cloud KMS encryption provider, built on pikokms:
//
//	kms, err := crypto_provider_gcp_kms.NewProvider(ctx, crypto_provider_gcp_kms.Config{
//		ProjectID: "my-project", Location: "europe-west1", KeyRing: "my-ring", KeyName: "app-data",
//	})
//	…
//	ssr := piko.New(piko.WithCryptoProvider("kms", kms), piko.WithDefaultCryptoProvider("kms"))
//
// It stands between Piko's crypto service and package gcpkms, and translates requests, responses
// and errors. It reads the strings that Piko's own provider writes, and that one reads its strings.
// Its streams are AWS Encryption SDK messages.
//
// A request to encrypt may name any key that the credentials may use, as Piko's crypto service does
// after its RotateKey. Config.TrustedKeys says which keys are trusted to decrypt.
package crypto_provider_gcp_kms

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"sync"

	"google.golang.org/api/option"

	"piko.sh/piko/internal/crypto/crypto_dto"
	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/dropin"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/service"
)

// names pairs errors of package provider with those of Piko that mean the same.
var names = dropin.Names{
	{Ours: provider.ErrKeyNotFound, Pikos: crypto.ErrKeyNotFound},
	{Ours: provider.ErrInvalidKey, Pikos: crypto.ErrInvalidKey},
	{Ours: provider.ErrKeyUsage, Pikos: crypto.ErrInvalidKey},
	{Ours: provider.ErrInvalidCiphertext, Pikos: crypto.ErrInvalidCiphertext},
	{Ours: provider.ErrContextMismatch, Pikos: crypto.ErrContextMismatch},
	{Ours: provider.ErrDecryptionFailed, Pikos: crypto.ErrDecryptionFailed},
	{Ours: provider.ErrUntrustedKey, Pikos: crypto.ErrDecryptionFailed},
	{Ours: provider.ErrEncryptionFailed, Pikos: crypto.ErrEncryptionFailed},
	{Ours: provider.ErrProviderUnavailable, Pikos: crypto.ErrProviderUnavailable},
	{Ours: provider.ErrEmptyPlaintext, Pikos: crypto.ErrEmptyPlaintext},
	{Ours: provider.ErrEmptyCiphertext, Pikos: crypto.ErrEmptyCiphertext},
}

// cryptoProvider implements crypto.EncryptionProvider.
type cryptoProvider struct {
	kms   dropin.Adapter
	close func() error
}

// NewProvider makes a provider and checks its key, unless Config.CheckLater is set. The options are
// those of Google's clients. The error holds Piko's own for a fault that has one, such as
// crypto.ErrInvalidKey for a configuration without a KeyName, and else is that of
// gcpkms.NewProvider.
//
// The provider is safe for concurrent use. It is also an [io.Closer], which Piko closes when it
// shuts down. Responses name a key by its resource name, without a version.
func NewProvider(ctx context.Context, c Config, options ...option.ClientOption) (crypto.EncryptionProvider, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	kms, err := gcpkms.NewProvider(ctx, c.gcpkms(), options...)
	if err != nil {
		return nil, names.Translate(err)
	}
	guarded := service.New(kms, service.Config{})
	closing := func() error { return errors.Join(guarded.Close(), kms.Close()) }
	adapter := dropin.Adapter{
		Provider: kms, Service: guarded, Names: names,
		OwnKeyID: crypto.DefaultServiceConfig().ActiveKeyID, AllowPikoV2: c.AllowPikoV2,
	}
	return &cryptoProvider{adapter, sync.OnceValue(closing)}, nil
}

// Unwrap returns the pikokms provider within, for packages of pikokms that take one.
func (p *cryptoProvider) Unwrap() provider.EncryptionProvider { return p.kms.Service }

// Close closes the connections to Cloud KMS. Piko calls it when it shuts down.
func (p *cryptoProvider) Close() error { return p.close() }

// Type implements crypto.EncryptionProvider.
func (p *cryptoProvider) Type() crypto.ProviderType { return crypto.ProviderType(p.kms.Service.Type()) }

// Encrypt implements crypto.EncryptionProvider with one call of Cloud KMS. The response names the
// key by its resource name, without a version.
func (p *cryptoProvider) Encrypt(ctx context.Context, request *crypto.EncryptRequest) (*crypto.EncryptResponse, error) {
	ciphertext, keyID, err := p.kms.Encrypt(ctx, request.Plaintext, request.KeyID, request.Context)
	if err != nil {
		return nil, err
	}
	return &crypto.EncryptResponse{Ciphertext: ciphertext, KeyID: keyID, Provider: p.Type()}, nil
}

// Decrypt implements crypto.EncryptionProvider. Cloud KMS is called once if the request names a
// trusted key or a version of one, and not at all if it names another. If it names none, the
// trusted keys are tried.
func (p *cryptoProvider) Decrypt(ctx context.Context, request *crypto.DecryptRequest) (*crypto.DecryptResponse, error) {
	plaintext, err := p.kms.Decrypt(ctx, request.Ciphertext, request.KeyID, request.Context)
	if err != nil {
		return nil, err
	}
	return &crypto.DecryptResponse{Plaintext: plaintext}, nil
}

// GenerateDataKey implements crypto.EncryptionProvider. The wrapped key is the base64 text of Cloud
// KMS's ciphertext, which Decrypt accepts.
func (p *cryptoProvider) GenerateDataKey(ctx context.Context, request *crypto.GenerateDataKeyRequest) (*crypto.DataKey, error) {
	var key *crypto.DataKey
	err := p.kms.GenerateDataKey(ctx, request.KeyID, request.KeySpec, func(made *provider.DataKey, plain []byte) error {
		secret, err := crypto_dto.NewSecureBytesFromSlice(plain, crypto_dto.WithID("data key of "+made.KeyID))
		key = &crypto.DataKey{PlaintextKey: secret, EncryptedKey: base64.StdEncoding.EncodeToString(made.EncryptedKey.Ciphertext), KeyID: made.KeyID, Provider: p.Type()}
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// GetKeyInfo implements crypto.EncryptionProvider.
func (p *cryptoProvider) GetKeyInfo(ctx context.Context, id string) (*crypto.KeyInfo, error) {
	info, status, err := p.kms.GetKeyInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	return &crypto.KeyInfo{
		CreatedAt:    info.CreatedAt,
		DeletionDate: info.DeletionDate,
		Metadata:     info.Metadata,
		KeyID:        info.KeyID,
		Provider:     p.Type(),
		Algorithm:    info.Algorithm,
		Status:       crypto.KeyStatus(status),
		Description:  info.Description,
		Origin:       info.Origin,
	}, nil
}

// HealthCheck implements crypto.EncryptionProvider.
func (p *cryptoProvider) HealthCheck(ctx context.Context) error {
	return names.Translate(p.kms.Service.HealthCheck(ctx))
}

// EncryptStream implements crypto.EncryptionProvider with one call of Cloud KMS. It writes an AWS
// Encryption SDK message, which is complete when Close returns nil.
func (p *cryptoProvider) EncryptStream(ctx context.Context, output io.Writer, request *crypto.EncryptRequest) (io.WriteCloser, error) {
	return p.kms.EncryptStream(ctx, output, request.KeyID, request.Context)
}

// DecryptStream implements crypto.EncryptionProvider with one call of Cloud KMS.
func (p *cryptoProvider) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	return p.kms.DecryptStream(ctx, input)
}

var _ crypto.EncryptionProvider = (*cryptoProvider)(nil)
