// Package provider defines what a key service must do for encryption. It has two halves: a
// [Wrapper] makes and wraps data keys, and an [Unwrapper] unwraps them.
//
// Package message encrypts streams under a Wrapper and decrypts them under Unwrappers. Packages
// awskms, azurekeyvault, branchkey, gcpkms, vault and local are key services, and package
// providertest tests that one conforms. Piko's strings, and whatever else Piko's crypto service
// requires of a provider, are not part of a key service: package dropin and pikokms.Host build them
// from the two halves. Only a [DirectEncrypter], a key service that itself encrypts small values,
// also encrypts Piko's strings.
//
// # Abilities
//
// Every key service is a [Provider]. What only some can do is an interface of its own, which is
// found by type assertion, as in p.(provider.KeySelector). The documentation of each NewProvider
// lists those of its result.
//
//   - [KeySelector] has other keys of the key service: awskms, gcpkms
//   - [DirectEncrypter] sends small values to the key service, which encrypts them: awskms, gcpkms
//   - [ReEncrypter] also moves such values to another key: awskms
//   - [HealthChecker] checks itself otherwise than [Check] does: branchkey, local
//   - [Guarded] keeps keys, so that a circuit breaker belongs within it: branchkey
//   - [ScopedKeyring] may pick a key by the caller's ctx: branchkey
//   - [PikoV2Keyring] unwraps what Piko wrapped before it used pikokms: awskms, gcpkms, local
//   - [S3ECKeyring] unwraps what AWS's S3 Encryption Client wrapped: awskms, local
//
// A type that stands in front of a provider, such as a service.Service, needs the methods of each
// interface that it passes on.
//
// # Errors
//
// The error of a provider holds one of these, by what its caller can do about it.
//
// Try again later. The key service is down, is overloaded or can't be reached. The providers have
// tried again already, so wait for seconds rather than milliseconds. A circuit breaker counts
// these, and refuses with one while it is open.
//
//   - [ErrProviderUnavailable]
//
// Ask for rights. The error says which permission, role or credentials are missing.
//
//   - [ErrAccessDenied]
//
// Restore the key. An administrator of the key service can bring it back, or can't.
//
//   - [ErrKeyDisabled]: enable the key or its version
//   - [ErrKeyPendingDeletion]: cancel its deletion, before it is too late
//   - [ErrKeyNotFound]: it was deleted, or its name is wrong
//
// Correct the configuration. It names another key than was meant, or one that can't do the work.
//
//   - [ErrInvalidKey], [ErrInvalidProvider]: the configuration or the service does not fit
//   - [ErrKeyUsage]: the key only signs, only encrypts, or has another purpose
//   - [ErrUntrustedKey]: the provider is configured for none of the message's keys; give it the key
//
// Report it. The data are not what the caller takes them for. They were changed, cut or put in the
// place of others, or are no message. Do not use them; look for an older copy.
//
//   - [ErrDecryptionFailed], [ErrInvalidCiphertext], [ErrContextMismatch]
//
// Correct the program. The call was wrong, and the key service was not asked.
//
//   - [ErrEncryptionFailed]: what was to be encrypted breaks a rule or a limit
//   - [ErrEmptyPlaintext], [ErrEmptyCiphertext]: Piko's names for empty values
//   - [ErrClosed]: a provider or key was used after Close
//
// If the caller's context has ended, the error holds the context's error and need not hold one of
// these. [Sentinel] finds the one that an error holds.
package provider

import (
	"context"
	"time"

	"piko.sh/pikokms/header"
)

// Type is the name of a type of provider, such as "aws_kms": Piko's name, if Piko has one. The
// variable KeyService of a key service's package states it. Package local has further types for
// keys of other kinds than AES.
type Type string

// Wrapper is the half of a key service that encrypts: it makes and wraps data keys. Implementations
// are safe for concurrent use.
type Wrapper interface {
	// GenerateDataKey makes a new data key of DataKeySize, plain and wrapped, in one call of the key
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

// Provider is a key of a key service, as the packages of key services return it. It may implement
// further interfaces, such as DirectEncrypter, which the documentation of its NewProvider lists. A
// Provider is safe for concurrent use.
type Provider interface {
	EncryptionProvider
	VersionedKeyring

	// KeyID returns the name of the key.
	KeyID() string

	// GetKeyInfo describes the provider's own key if keyID is empty. Some providers also describe
	// other keys of their key service. For a key that is not found or that the provider does not
	// describe, the error holds ErrKeyNotFound.
	GetKeyInfo(ctx context.Context, keyID string) (*KeyInfo, error)

	// Close zeroes keys in memory and closes connections. The provider must not be used afterwards:
	// where there was something to close, errors then hold ErrClosed. Close it once.
	Close() error
}

// UnwrapDataKeyRequest asks to unwrap a data key.
type UnwrapDataKeyRequest struct {
	EncryptedKey header.EncryptedDataKey
	Context      map[string]string // encryption context with which the key was wrapped
	Size         int               // of the data key in bytes; a key of another size is refused
}

// DataKey is a data key, plain and, if it was made to encrypt, wrapped.
type DataKey struct {
	PlaintextKey *SecureBytes            // which Close closes
	EncryptedKey header.EncryptedDataKey // of a new data key
	KeyID        string                  // of a new data key's wrapping key

	// Count is nil, or a function for the caller to call with numbers of bytes as they are
	// encrypted or decrypted under the key. A cache of data keys bounds them.
	Count func(bytes int)

	// Verified is nil, or a function for the caller of UnwrapDataKey to call with whether the
	// message's header verifies under the data key. A cache forgets a data key that does not fit.
	Verified func(fits bool)
}

// Close zeroes the plain key.
func (k *DataKey) Close() error { return k.PlaintextKey.Close() }

// KeyInfo describes a wrapping key, in the key service's own words. What the service does not state
// is empty.
type KeyInfo struct {
	CreatedAt    time.Time
	DeletionDate *time.Time        // nil if no deletion is scheduled
	Metadata     map[string]string // what else the service states, such as "key_state" of AWS KMS
	KeyID        string            // of AWS KMS without the ARN, which Metadata has
	Algorithm    string            // such as "SYMMETRIC_DEFAULT" of AWS KMS
	Description  string
	Origin       string // where the key's material comes from, such as "AWS_KMS"

	// Err is why the key can't be used, or nil. It holds ErrKeyDisabled, ErrKeyPendingDeletion,
	// ErrKeyNotFound for a key that is destroyed, or ErrKeyUsage.
	Err error
}
