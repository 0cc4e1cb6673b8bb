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

// Wrapper is the half of a key service that encrypts: it makes and wraps data keys. Implementations
// are safe for concurrent use.
type Wrapper interface {
	// GenerateDataKey makes a new data key of 32 bytes, plain and wrapped, in one call of the key
	// service. The wrapped key is bound to the encryption context. The caller closes the data key.
	GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*DataKey, error)

	// WrapDataKey wraps an existing data key, for messages with several recipients.
	WrapDataKey(ctx context.Context, key *SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error)
}

// Unwrapper is the half of a key service that decrypts. Implementations are safe for concurrent
// use.
type Unwrapper interface {
	// UnwrapDataKey unwraps a data key. If the provider does not trust the wrapping key, it asks no
	// key service, and the error holds ErrUntrustedKey. The caller closes the result.
	UnwrapDataKey(ctx context.Context, request *UnwrapDataKeyRequest) (*DataKey, error)
}

// Keyring is both halves: it makes, wraps and unwraps data keys. Keyring corresponds to the
// specification's keyring (framework/keyring-interface.md).
type Keyring interface {
	Wrapper
	Unwrapper
}

// EncryptionProvider is a Keyring on one kind of key service, which Piko's envelopes and telemetry
// name.
type EncryptionProvider interface {
	Keyring

	// Type returns the type of provider.
	Type() Type
}

// UnwrapDataKeyRequest asks to unwrap a data key.
type UnwrapDataKeyRequest struct {
	EncryptedKey header.EncryptedDataKey
	Context      map[string]string // encryption context with which the key was wrapped
	Size         int               // of the data key in bytes; a key of another size is refused
}

// DataKey is a data key, plain and, if it was made to encrypt, wrapped.
type DataKey struct {
	PlaintextKey *SecureBytes
	EncryptedKey header.EncryptedDataKey // of a new data key
	KeyID        string                  // of a new data key's wrapping key

	// Count is nil, or a function for the caller to call with numbers of bytes as they are encrypted
	// or decrypted under the key. A cache of data keys bounds them.
	Count func(bytes int)

	// Verified is nil, or a function for the caller of UnwrapDataKey to call with whether the
	// message's header verifies under the data key. A cache forgets a data key that does not fit.
	Verified func(fits bool)
}

// Close zeroes the plain key.
func (k *DataKey) Close() error { return k.PlaintextKey.Close() }

// KeyStatus is a key's state.
type KeyStatus string

// The states of keys.
const (
	KeyStatusActive    KeyStatus = "active"
	KeyStatusDisabled  KeyStatus = "disabled"
	KeyStatusDestroyed KeyStatus = "destroyed" // or pending deletion
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
