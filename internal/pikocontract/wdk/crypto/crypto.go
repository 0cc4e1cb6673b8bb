// Package crypto stands in for Piko's package of that path: it declares the signatures that an encryption provider compiles
// against. A Piko application has Piko's own in its place.
package crypto

import (
	"context"
	"errors"
	"io"
	"time"

	"piko.sh/piko/internal/crypto/crypto_dto"
)

// ProviderType names a kind of provider.
type ProviderType string

// ProviderTypeAWSKMS is the kind of AWS KMS providers.
const ProviderTypeAWSKMS ProviderType = "aws_kms"

// KeyStatus is a key's state.
type KeyStatus string

// The states of a key.
const (
	KeyStatusActive     KeyStatus = "active"
	KeyStatusDeprecated KeyStatus = "deprecated"
	KeyStatusDisabled   KeyStatus = "disabled"
	KeyStatusDestroyed  KeyStatus = "destroyed"
)

// The errors that providers return.
var (
	ErrKeyNotFound         = errors.New("encryption key not found")
	ErrInvalidKey          = errors.New("invalid encryption key")
	ErrInvalidCiphertext   = errors.New("invalid ciphertext format")
	ErrDecryptionFailed    = errors.New("decryption failed")
	ErrEncryptionFailed    = errors.New("encryption failed")
	ErrProviderUnavailable = errors.New("encryption provider unavailable")
	ErrEmptyPlaintext      = errors.New("plaintext cannot be empty")
	ErrEmptyCiphertext     = errors.New("ciphertext cannot be empty")
	ErrContextMismatch     = errors.New("decryption context does not match encryption context")
)

// The requests and responses of a provider.
type (
	EncryptRequest struct {
		Context   map[string]string
		Plaintext string
		KeyID     string
	}
	EncryptResponse struct {
		Ciphertext string
		KeyID      string
		Provider   ProviderType
	}
	DecryptRequest struct {
		Context    map[string]string
		Ciphertext string
		KeyID      string
	}
	DecryptResponse        struct{ Plaintext string }
	GenerateDataKeyRequest struct {
		KeyID   string
		KeySpec string
	}
	DataKey struct {
		PlaintextKey *crypto_dto.SecureBytes
		EncryptedKey string
		KeyID        string
		Provider     ProviderType
	}
	KeyInfo struct {
		CreatedAt      time.Time
		RotatedAt      *time.Time
		ExpirationDate *time.Time
		DeletionDate   *time.Time
		Metadata       map[string]string
		KeyID          string
		Provider       ProviderType
		Algorithm      string
		Status         KeyStatus
		Description    string
		Origin         string
	}
)

// Close zeroes the plain key.
func (k *DataKey) Close() error { return k.PlaintextKey.Close() }

// EncryptionProvider is Piko's port of encryption providers.
type EncryptionProvider interface {
	Type() ProviderType
	Encrypt(ctx context.Context, request *EncryptRequest) (*EncryptResponse, error)
	Decrypt(ctx context.Context, request *DecryptRequest) (*DecryptResponse, error)
	GenerateDataKey(ctx context.Context, request *GenerateDataKeyRequest) (*DataKey, error)
	GetKeyInfo(ctx context.Context, keyID string) (*KeyInfo, error)
	HealthCheck(ctx context.Context) error
	EncryptStream(ctx context.Context, output io.Writer, request *EncryptRequest) (io.WriteCloser, error)
	DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error)
}
