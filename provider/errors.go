package provider

import (
	"context"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
)

// Errors of providers. errors.Is finds them in whatever a provider returns. Those up to
// ErrContextMismatch have Piko's names and texts.
var (
	// ErrKeyNotFound means that the key service has no key of that name, or no such version of it.
	ErrKeyNotFound = errors.New("encryption key not found")
	// ErrInvalidKey means that a configuration, a URL or a text does not name or hold a key that can
	// be used.
	ErrInvalidKey = errors.New("invalid encryption key")
	// ErrInvalidCiphertext means that the data do not look like a ciphertext: they are no message,
	// are cut short or exceed a limit.
	ErrInvalidCiphertext = errors.New("invalid ciphertext format")
	// ErrDecryptionFailed means that the data look like a ciphertext, but do not decrypt: they were
	// changed, no key fits, or the key service refused them for a reason that no other error names.
	ErrDecryptionFailed = errors.New("decryption failed")
	// ErrEncryptionFailed means that nothing was encrypted, for a reason that the error states.
	ErrEncryptionFailed = errors.New("encryption failed")
	// ErrProviderUnavailable means that the key service gave no answer, or none that counts. The
	// same call may succeed later.
	ErrProviderUnavailable = errors.New("encryption provider unavailable")
	// ErrInvalidProvider means that a provider is missing, or can't do what was asked.
	ErrInvalidProvider = errors.New("invalid or unsupported provider type")
	// ErrEmptyPlaintext means that a plaintext is empty. Only Piko's providers refuse that, and so
	// package dropin.
	ErrEmptyPlaintext = errors.New("plaintext cannot be empty")
	// ErrEmptyCiphertext is the same for a ciphertext.
	ErrEmptyCiphertext = errors.New("ciphertext cannot be empty")
	// ErrContextMismatch means that the message does not have a pair of the encryption context that
	// the caller stated.
	ErrContextMismatch = errors.New("decryption context does not match encryption context")

	// ErrUntrustedKey means that the provider is configured for none of the wrapping keys of a
	// message's data key. No key service was asked.
	ErrUntrustedKey = errors.New("message is encrypted under no key of this provider")
	// ErrAccessDenied means that credentials or a permission are missing.
	ErrAccessDenied = errors.New("access to the encryption key denied")
	// ErrKeyDisabled means that the key exists, but is disabled or in another state in which it
	// can't be used.
	ErrKeyDisabled = errors.New("encryption key disabled")
	// ErrKeyPendingDeletion means that the key is about to be deleted.
	ErrKeyPendingDeletion = errors.New("encryption key pending deletion")
	// ErrKeyUsage means that the key can't do what was asked, such as a key that only signs or only
	// encrypts.
	ErrKeyUsage = errors.New("encryption key has the wrong usage")
	// ErrClosed means that a provider or SecureBytes was used after Close.
	ErrClosed = errors.New("closed")
)

// sentinels are the errors that callers look for, in the order in which Sentinel prefers them.
var sentinels = [...]error{
	ErrProviderUnavailable, ErrAccessDenied, ErrKeyNotFound, ErrKeyDisabled, ErrKeyPendingDeletion, ErrKeyUsage, ErrUntrustedKey,
	ErrContextMismatch, ErrInvalidCiphertext, ErrEmptyPlaintext, ErrEmptyCiphertext, ErrInvalidKey, ErrInvalidProvider, ErrClosed,
	ErrDecryptionFailed, ErrEncryptionFailed, header.ErrInvalidContext,
}

// Sentinel returns the error of this package, or header.ErrInvalidContext, that an error holds, or
// nil.
func Sentinel(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s
		}
	}
	return nil
}

// Judge returns a key service's error in the form in which callers of a provider get it. An error
// that holds a Sentinel stays as it is. If the caller's context has ended, that is the reason,
// whatever a client of the service returns. For any other error, Judge returns what the service's
// own function meaning makes of it.
func Judge(ctx context.Context, err error, meaning func(error) error) error {
	if err == nil || Sentinel(err) != nil {
		return err
	}
	if ended := ctx.Err(); ended != nil {
		if errors.Is(err, ended) {
			return err
		}
		return fmt.Errorf("%w: %w", ended, err)
	}
	return meaning(err)
}

// Failure returns the error of an operation. The operation that the caller asked for replaces an
// inner one. Wrappers around an EncryptionError are kept, since they say which pair or data key of
// a message failed.
func Failure(operation string, kind Type, keyID string, err error) *EncryptionError {
	if inner, ok := err.(*EncryptionError); ok {
		err = inner.Err
	}
	return &EncryptionError{Operation: operation, Provider: string(kind), KeyID: keyID, Err: err}
}

// EncryptionError is the error of an operation of a provider. It names the operation, the provider
// and the key, and unwraps to its cause.
type EncryptionError struct {
	Err       error
	Operation string // such as "GenerateDataKey"
	Provider  string // its Type
	KeyID     string // empty if no key was used
}

func (e *EncryptionError) Error() string {
	if e.KeyID != "" {
		return fmt.Sprintf("crypto %s failed with provider %s and key %s: %v", e.Operation, e.Provider, e.KeyID, e.Err)
	}
	return fmt.Sprintf("crypto %s failed with provider %s: %v", e.Operation, e.Provider, e.Err)
}

func (e *EncryptionError) Unwrap() error { return e.Err }
