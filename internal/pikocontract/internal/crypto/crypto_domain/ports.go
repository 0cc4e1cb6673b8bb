// Package crypto_domain stands in for Piko's package of that path: it declares the ports of
// encryption. A Piko application has Piko's own in its place.
package crypto_domain

import (
	"context"
	"io"

	"piko.sh/piko/internal/crypto/crypto_dto"
)

// EncryptionProvider is Piko's port of encryption providers.
type EncryptionProvider interface {
	Type() crypto_dto.ProviderType
	Encrypt(ctx context.Context, request *crypto_dto.EncryptRequest) (*crypto_dto.EncryptResponse, error)
	Decrypt(ctx context.Context, request *crypto_dto.DecryptRequest) (*crypto_dto.DecryptResponse, error)
	GenerateDataKey(ctx context.Context, request *crypto_dto.GenerateDataKeyRequest) (*crypto_dto.DataKey, error)
	GetKeyInfo(ctx context.Context, keyID string) (*crypto_dto.KeyInfo, error)
	HealthCheck(ctx context.Context) error
	EncryptStream(ctx context.Context, output io.Writer, request *crypto_dto.EncryptRequest) (plaintextWriter io.WriteCloser, err error)
	DecryptStream(ctx context.Context, input io.Reader) (plaintextReader io.ReadCloser, err error)
}

// LocalProviderFactory makes the providers of a batch, on its data key.
type LocalProviderFactory interface {
	CreateWithKey(key *crypto_dto.SecureBytes, keyID string) (EncryptionProvider, error)
}
