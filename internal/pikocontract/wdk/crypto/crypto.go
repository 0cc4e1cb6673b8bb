// Package crypto stands in for Piko's package of that path: it declares the names that an
// encryption provider compiles against. Piko's crypto service, its builders and its functions are
// not here. A Piko application has Piko's own package in its place.
package crypto

import (
	"piko.sh/piko/internal/crypto/crypto_domain"
	"piko.sh/piko/internal/crypto/crypto_dto"
)

// The kinds of providers and the states of keys.
const (
	ProviderTypeLocalAESGCM    = crypto_dto.ProviderTypeLocalAESGCM
	ProviderTypeAWSKMS         = crypto_dto.ProviderTypeAWSKMS
	ProviderTypeGCPKMS         = crypto_dto.ProviderTypeGCPKMS
	ProviderTypeAzureKeyVault  = crypto_dto.ProviderTypeAzureKeyVault
	ProviderTypeHashiCorpVault = crypto_dto.ProviderTypeHashiCorpVault

	KeyStatusActive     = crypto_dto.KeyStatusActive
	KeyStatusDeprecated = crypto_dto.KeyStatusDeprecated
	KeyStatusDisabled   = crypto_dto.KeyStatusDisabled
	KeyStatusDestroyed  = crypto_dto.KeyStatusDestroyed
)

// The errors that providers return.
var (
	ErrKeyNotFound           = crypto_dto.ErrKeyNotFound
	ErrInvalidKey            = crypto_dto.ErrInvalidKey
	ErrInvalidCiphertext     = crypto_dto.ErrInvalidCiphertext
	ErrDecryptionFailed      = crypto_dto.ErrDecryptionFailed
	ErrEncryptionFailed      = crypto_dto.ErrEncryptionFailed
	ErrProviderUnavailable   = crypto_dto.ErrProviderUnavailable
	ErrInvalidProvider       = crypto_dto.ErrInvalidProvider
	ErrEmptyPlaintext        = crypto_dto.ErrEmptyPlaintext
	ErrEmptyCiphertext       = crypto_dto.ErrEmptyCiphertext
	ErrContextMismatch       = crypto_dto.ErrContextMismatch
	ErrKeyRotationInProgress = crypto_dto.ErrKeyRotationInProgress
)

// The names of Piko's internal packages that are public.
type (
	EncryptionProvider     = crypto_domain.EncryptionProvider
	LocalProviderFactory   = crypto_domain.LocalProviderFactory
	ServiceConfig          = crypto_dto.ServiceConfig
	ProviderType           = crypto_dto.ProviderType
	EncryptRequest         = crypto_dto.EncryptRequest
	DecryptRequest         = crypto_dto.DecryptRequest
	GenerateDataKeyRequest = crypto_dto.GenerateDataKeyRequest
	EncryptResponse        = crypto_dto.EncryptResponse
	DecryptResponse        = crypto_dto.DecryptResponse
	DataKey                = crypto_dto.DataKey
	KeyInfo                = crypto_dto.KeyInfo
	KeyStatus              = crypto_dto.KeyStatus
	KeyRotationPolicy      = crypto_dto.KeyRotationPolicy
	EncryptionError        = crypto_dto.EncryptionError
)

// DefaultServiceConfig returns the configuration that Piko's bootstrap begins with.
func DefaultServiceConfig() *ServiceConfig { return crypto_dto.DefaultServiceConfig() }

// DefaultKeyRotationPolicy returns a policy that changes no keys.
func DefaultKeyRotationPolicy() *KeyRotationPolicy { return crypto_dto.DefaultKeyRotationPolicy() }

// NewEncryptionError returns an EncryptionError.
func NewEncryptionError(op, provider, keyID string, err error) *EncryptionError {
	return crypto_dto.NewEncryptionError(op, provider, keyID, err)
}

// IsValidProviderType reports whether pt is one of the kinds above.
func IsValidProviderType(pt ProviderType) bool { return pt.IsValid() }
