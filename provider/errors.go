package provider

import (
	"errors"
	"fmt"
)

// Errors of providers; errors.Is finds them in whatever a provider returns. The names and texts up
// to ErrContextMismatch are Piko's.
var (
	ErrKeyNotFound         = errors.New("encryption key not found")
	ErrInvalidKey          = errors.New("invalid encryption key")
	ErrInvalidCiphertext   = errors.New("invalid ciphertext format")
	ErrDecryptionFailed    = errors.New("decryption failed")
	ErrEncryptionFailed    = errors.New("encryption failed")
	ErrProviderUnavailable = errors.New("encryption provider unavailable")
	ErrInvalidProvider     = errors.New("invalid or unsupported provider type")
	ErrEmptyPlaintext      = errors.New("plaintext cannot be empty")
	ErrEmptyCiphertext     = errors.New("ciphertext cannot be empty")
	// ErrContextMismatch means that a pair of encryption context that the caller stated is not the
	// message's.
	ErrContextMismatch = errors.New("decryption context does not match encryption context")

	// ErrUntrustedKey means that a message's data key is wrapped only under keys that the provider
	// is not configured for. No key service was asked.
	ErrUntrustedKey = errors.New("message is encrypted under no key of this provider")
	// ErrAccessDenied means missing credentials or a missing permission.
	ErrAccessDenied = errors.New("access to the encryption key denied")
	// ErrKeyDisabled means that the key exists and is disabled, or in another state in which it
	// can't be used.
	ErrKeyDisabled = errors.New("encryption key disabled")
	// ErrKeyPendingDeletion means that the key waits for its deletion.
	ErrKeyPendingDeletion = errors.New("encryption key pending deletion")
	// ErrKeyUsage means that the key is not one for what was asked: it signs, or only encrypts.
	ErrKeyUsage = errors.New("encryption key has the wrong usage")
	// ErrClosed means use of a closed provider or of closed SecureBytes.
	ErrClosed = errors.New("closed")
)

// EncryptionError says which operation of which provider failed under which key. It unwraps to the
// cause.
type EncryptionError struct {
	Err       error
	Operation string
	Provider  string
	KeyID     string // empty if no key was used
}

func (e *EncryptionError) Error() string {
	if e.KeyID != "" {
		return fmt.Sprintf("crypto %s failed with provider %s and key %s: %v", e.Operation, e.Provider, e.KeyID, e.Err)
	}
	return fmt.Sprintf("crypto %s failed with provider %s: %v", e.Operation, e.Provider, e.Err)
}

func (e *EncryptionError) Unwrap() error { return e.Err }
