// Package provider is the port between encryption and key services: what a message or an
// application asks of a provider, and the vocabulary of requests, responses and errors, which is
// Piko's.
//
// Package message stands above it and turns data keys into streams; packages awskms and local
// implement it; package providertest is the conformance suite of every implementation.
package provider

import (
	"context"
	"time"

	"piko.sh/pikokms/header"
)

// Type names a kind of provider.
type Type string

// The kinds that pikokms implements. The first two names are Piko's.
const (
	TypeLocalAESGCM Type = "local_aes_gcm"
	TypeAWSKMS      Type = "aws_kms"
	TypeLocalRSA    Type = "local_rsa"
)

// Keyring makes, wraps and unwraps data keys: all that a message needs of a provider. It
// corresponds to the specification's keyring (framework/keyring-interface.md). Implementations are
// safe for concurrent use.
type Keyring interface {
	// GenerateDataKey makes a new data key, plain and wrapped, in one call of the key service. The
	// caller closes it.
	GenerateDataKey(ctx context.Context, request *GenerateDataKeyRequest) (*DataKey, error)

	// WrapDataKey wraps an existing data key, for messages with several recipients.
	WrapDataKey(ctx context.Context, key *SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error)

	// UnwrapDataKey recovers a data key. When it is not under a key that the provider trusts, no
	// key service is asked and the error holds ErrUntrustedKey. The caller closes the result.
	UnwrapDataKey(ctx context.Context, request *UnwrapDataKeyRequest) (*SecureBytes, error)
}

// EncryptionProvider is Piko's provider port over a Keyring. Implementations are safe for
// concurrent use.
type EncryptionProvider interface {
	Keyring

	// Type tells the kind of provider.
	Type() Type

	// Encrypt encrypts a small value to base64 text.
	Encrypt(ctx context.Context, request *EncryptRequest) (*EncryptResponse, error)

	// Decrypt reverses Encrypt.
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
	KeyID     string // empty for the provider's own key, or one that it can use
}

// EncryptResponse is the result of Encrypt.
type EncryptResponse struct {
	Ciphertext string // base64
	KeyID      string
	Provider   Type
}

// DecryptRequest asks for decryption.
type DecryptRequest struct {
	Context    map[string]string // the encryption context given to Encrypt
	Ciphertext string            // base64
	KeyID      string            // empty, or a key that the provider trusts
}

// DecryptResponse is the result of Decrypt.
type DecryptResponse struct {
	Plaintext string
}

// GenerateDataKeyRequest asks for a data key.
type GenerateDataKeyRequest struct {
	Context map[string]string // encryption context to bind the wrapped key to
	KeyID   string            // empty for the provider's own key, or one that it can use
	KeySpec string            // empty or "AES_256", "AES_128"
}

// UnwrapDataKeyRequest asks for a wrapped data key.
type UnwrapDataKeyRequest struct {
	EncryptedKey header.EncryptedDataKey
	Context      map[string]string // encryption context that the key was wrapped with
	Size         int               // of the data key in bytes; a key of another size is refused

	// Verified and Count, if UnwrapDataKey has set them, are told what becomes of the data key:
	// whether the message's header verifies under it, and the bytes that are decrypted, as they
	// are. A cache of data keys forgets one that does not fit.
	Verified func(fits bool)
	Count    func(bytes int)
}

// DataKey is a data key, plain and wrapped.
type DataKey struct {
	PlaintextKey *SecureBytes
	EncryptedKey header.EncryptedDataKey
	KeyID        string // of the wrapping key
	Provider     Type

	// Count, if not nil, is told of the bytes that are encrypted under the key, as they are: a
	// cache of data keys bounds them.
	Count func(bytes int)
}

// Close zeroes the plain key.
func (k *DataKey) Close() error { return k.PlaintextKey.Close() }

// KeyStatus is a key's state.
type KeyStatus string

// Key states.
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
