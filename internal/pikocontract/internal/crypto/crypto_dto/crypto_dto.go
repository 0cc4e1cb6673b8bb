// Package crypto_dto stands in for Piko's package of that path: it declares the names that a
// provider compiles against, and behaves as much as that provider's tests need. A Piko application
// has Piko's own in its place.
package crypto_dto

import (
	"errors"
	"fmt"
	"time"
)

// ProviderType names a kind of provider.
type ProviderType string

// The kinds of providers.
const (
	ProviderTypeLocalAESGCM    ProviderType = "local_aes_gcm"
	ProviderTypeAWSKMS         ProviderType = "aws_kms"
	ProviderTypeGCPKMS         ProviderType = "gcp_kms"
	ProviderTypeAzureKeyVault  ProviderType = "azure_keyvault"
	ProviderTypeHashiCorpVault ProviderType = "hashicorp_vault"
)

// String returns the name.
func (p ProviderType) String() string { return string(p) }

// IsValid reports whether it is one of the kinds above.
func (p ProviderType) IsValid() bool {
	switch p {
	case ProviderTypeLocalAESGCM, ProviderTypeAWSKMS, ProviderTypeGCPKMS, ProviderTypeAzureKeyVault, ProviderTypeHashiCorpVault:
		return true
	}
	return false
}

// KeyStatus is a key's state.
type KeyStatus string

// The states of a key.
const (
	KeyStatusActive     KeyStatus = "active"
	KeyStatusDeprecated KeyStatus = "deprecated"
	KeyStatusDisabled   KeyStatus = "disabled"
	KeyStatusDestroyed  KeyStatus = "destroyed"
)

// String returns the name.
func (k KeyStatus) String() string { return string(k) }

// The errors that providers return.
var (
	ErrKeyNotFound           = errors.New("encryption key not found")
	ErrInvalidKey            = errors.New("invalid encryption key")
	ErrInvalidCiphertext     = errors.New("invalid ciphertext format")
	ErrDecryptionFailed      = errors.New("decryption failed")
	ErrEncryptionFailed      = errors.New("encryption failed")
	ErrProviderUnavailable   = errors.New("encryption provider unavailable")
	ErrInvalidProvider       = errors.New("invalid or unsupported provider type")
	ErrEmptyPlaintext        = errors.New("plaintext cannot be empty")
	ErrEmptyCiphertext       = errors.New("ciphertext cannot be empty")
	ErrContextMismatch       = errors.New("decryption context does not match encryption context")
	ErrKeyRotationInProgress = errors.New("key rotation is in progress")
	ErrCryptoDisabled        = errors.New("encryption is not configured")
)

// EncryptionError says which operation failed.
type EncryptionError struct {
	Err       error
	Operation string
	Provider  string
	KeyID     string
}

// NewEncryptionError returns an EncryptionError.
func NewEncryptionError(op, provider, keyID string, err error) *EncryptionError {
	return &EncryptionError{Err: err, Operation: op, Provider: provider, KeyID: keyID}
}

func (e *EncryptionError) Error() string {
	return fmt.Sprintf("crypto %s failed with provider %s and key %s: %v", e.Operation, e.Provider, e.KeyID, e.Err)
}

// Unwrap returns the cause.
func (e *EncryptionError) Unwrap() error { return e.Err }

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
		PlaintextKey *SecureBytes
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
func (dk *DataKey) Close() error {
	if dk.PlaintextKey == nil {
		return nil
	}
	return dk.PlaintextKey.Close()
}

// IsUsable reports whether the key can encrypt or decrypt.
func (k *KeyInfo) IsUsable() bool { return k.CanEncrypt() || k.CanDecrypt() }

// CanEncrypt reports whether the key is active.
func (k *KeyInfo) CanEncrypt() bool { return k.Status == KeyStatusActive }

// CanDecrypt reports whether the key is active or deprecated.
func (k *KeyInfo) CanDecrypt() bool {
	return k.Status == KeyStatusActive || k.Status == KeyStatusDeprecated
}

// ServiceConfig configures Piko's crypto service.
type ServiceConfig struct {
	ActiveKeyID              string
	ProviderType             ProviderType
	DeprecatedKeyIDs         []string
	EnableAutoReEncrypt      bool
	EnableEnvelopeEncryption bool
	DirectModeMaxConcurrency int
	DataKeyCacheTTL          time.Duration
	DataKeyCacheMaxSize      int
}

// DefaultServiceConfig returns the configuration that Piko's bootstrap begins with. Its key ID is
// one that no key service has.
func DefaultServiceConfig() *ServiceConfig {
	return &ServiceConfig{
		ActiveKeyID:              "default",
		ProviderType:             ProviderTypeLocalAESGCM,
		DeprecatedKeyIDs:         []string{},
		EnableEnvelopeEncryption: true,
		DirectModeMaxConcurrency: 50,
		DataKeyCacheTTL:          5 * time.Minute,
		DataKeyCacheMaxSize:      100,
	}
}

// KeyRotationPolicy says when keys are changed.
type KeyRotationPolicy struct {
	RotationInterval time.Duration
	RetainOldKeys    int
	GracePeriod      time.Duration
	Enabled          bool
	AutoRotate       bool
}

// DefaultKeyRotationPolicy returns a policy that changes none.
func DefaultKeyRotationPolicy() *KeyRotationPolicy {
	return &KeyRotationPolicy{RotationInterval: 90 * 24 * time.Hour, RetainOldKeys: 5, GracePeriod: 7 * 24 * time.Hour}
}
