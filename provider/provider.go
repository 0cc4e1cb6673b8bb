// Package provider defines what a key service must do for encryption: the interfaces Keyring and
// EncryptionProvider, with their requests, responses and errors. Their names are Piko's.
//
// Package message uses a Keyring to encrypt streams. Packages awskms, gcpkms, vault and local
// implement the interfaces. Package providertest tests that an implementation conforms.
package provider

import (
	"context"
	"time"

	"piko.sh/pikokms/header"
)

// Type is the name of a type of provider.
type Type string

// The types that pikokms implements. All names but the last are Piko's.
const (
	TypeLocalAESGCM    Type = "local_aes_gcm"
	TypeAWSKMS         Type = "aws_kms"
	TypeGCPKMS         Type = "gcp_kms"
	TypeHashiCorpVault Type = "hashicorp_vault" // or OpenBao
	TypeLocalRSA       Type = "local_rsa"
)

// Keyring makes, wraps and unwraps data keys. A message needs no more of a provider. Keyring
// corresponds to the specification's keyring (framework/keyring-interface.md). Implementations are
// safe for concurrent use.
type Keyring interface {
	// GenerateDataKey makes a new data key, plain and wrapped, in one call of the key service. The
	// caller closes it.
	GenerateDataKey(ctx context.Context, request *GenerateDataKeyRequest) (*DataKey, error)

	// WrapDataKey wraps an existing data key, for messages with several recipients.
	WrapDataKey(ctx context.Context, key *SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error)

	// UnwrapDataKey unwraps a data key. If the provider does not trust the wrapping key, it asks no
	// key service, and the error holds ErrUntrustedKey. The caller closes the result.
	UnwrapDataKey(ctx context.Context, request *UnwrapDataKeyRequest) (*SecureBytes, error)
}

// EncryptionProvider is a Keyring that also has the methods of Piko's providers. Implementations
// are safe for concurrent use.
type EncryptionProvider interface {
	Keyring

	// Type returns the type of provider.
	Type() Type

	// Encrypt encrypts a small value to base64 text.
	Encrypt(ctx context.Context, request *EncryptRequest) (*EncryptResponse, error)

	// Decrypt decrypts the result of Encrypt.
	Decrypt(ctx context.Context, request *DecryptRequest) (*DecryptResponse, error)

	// GetKeyInfo describes a key; an empty keyID means the provider's own.
	GetKeyInfo(ctx context.Context, keyID string) (*KeyInfo, error)

	// HealthCheck wraps and unwraps a data key, which needs the permissions that streams need.
	HealthCheck(ctx context.Context) error
}

// EncryptRequest asks for encryption.
type EncryptRequest struct {
	// Context is the encryption context. It is authenticated, stored and visible, not encrypted.
	Context   map[string]string
	Plaintext string // not empty
	KeyID     string // empty for the provider's own key, or another key that it can use
}

// EncryptResponse is the result of Encrypt.
type EncryptResponse struct {
	Ciphertext string // base64
	KeyID      string
	Provider   Type
}

// DecryptRequest asks for decryption.
type DecryptRequest struct {
	Context    map[string]string // the encryption context that was given to Encrypt
	Ciphertext string            // base64
	KeyID      string            // empty, or a key that the provider trusts
}

// DecryptResponse is the result of Decrypt.
type DecryptResponse struct {
	Plaintext string
}

// GenerateDataKeyRequest asks for a data key.
type GenerateDataKeyRequest struct {
	Context map[string]string // encryption context to which the wrapped key is bound
	KeyID   string            // empty for the provider's own key, or another key that it can use
	KeySpec string            // empty or "AES_256", "AES_128"
}

// UnwrapDataKeyRequest asks to unwrap a data key.
type UnwrapDataKeyRequest struct {
	EncryptedKey header.EncryptedDataKey
	Context      map[string]string // encryption context with which the key was wrapped
	Size         int               // of the data key in bytes; a key of another size is refused

	// Verified and Count are nil, or set by UnwrapDataKey for the caller to call. Verified takes
	// whether the message's header verifies under the data key; a cache forgets a data key that
	// does not fit. Count takes numbers of bytes as they are decrypted.
	Verified func(fits bool)
	Count    func(bytes int)
}

// DataKey is a data key, plain and wrapped.
type DataKey struct {
	PlaintextKey *SecureBytes
	EncryptedKey header.EncryptedDataKey
	KeyID        string // of the wrapping key
	Provider     Type

	// Count is nil, or a function for the caller to call with numbers of bytes as they are
	// encrypted under the key. A cache of data keys bounds them.
	Count func(bytes int)
}

// Close zeroes the plain key.
func (k *DataKey) Close() error { return k.PlaintextKey.Close() }

// KeyStatus is a key's state.
type KeyStatus string

// The states of keys.
const (
	KeyStatusActive     KeyStatus = "active"
	KeyStatusDeprecated KeyStatus = "deprecated"
	KeyStatusDisabled   KeyStatus = "disabled"
	KeyStatusDestroyed  KeyStatus = "destroyed" // or pending deletion
)

// KeyInfo describes a wrapping key.
type KeyInfo struct {
	CreatedAt    time.Time
	DeletionDate *time.Time // nil if no deletion is scheduled
	Metadata     map[string]string
	KeyID        string
	Provider     Type
	Algorithm    string
	Status       KeyStatus
	Description  string
	Origin       string
}
