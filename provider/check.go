package provider

import (
	"context"
	"crypto/subtle"
	"fmt"
)

// HealthChecker is a keyring that checks itself in another way than Check does. Examples are one
// that can only encrypt, and one that caches keys of its own.
type HealthChecker interface {
	// HealthCheck reports why the keyring can't be used, or nil.
	HealthCheck(ctx context.Context) error
}

// Check checks that a keyring can be used. Unless it is a HealthChecker, Check wraps and unwraps a
// data key, which needs the permissions that streams need. The error is the keyring's, or holds
// ErrDecryptionFailed if the data key comes back changed.
func Check(ctx context.Context, keyring Keyring) error {
	if h, ok := keyring.(HealthChecker); ok {
		return h.HealthCheck(ctx)
	}
	err := check(ctx, keyring)
	if inner, ok := err.(*EncryptionError); ok {
		return &EncryptionError{Operation: "HealthCheck", Provider: inner.Provider, KeyID: inner.KeyID, Err: inner.Err}
	}
	return err
}

func check(ctx context.Context, keyring Keyring) error {
	encryptionContext := map[string]string{"purpose": "health check"}
	made, err := keyring.GenerateDataKey(ctx, encryptionContext)
	if err != nil {
		return err
	}
	defer made.Close()
	got, err := keyring.UnwrapDataKey(ctx, &UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: encryptionContext, Size: made.PlaintextKey.Len()})
	if err != nil {
		return err
	}
	defer got.Close()
	return made.PlaintextKey.WithAccess(func(want []byte) error {
		return got.PlaintextKey.WithAccess(func(key []byte) error {
			if subtle.ConstantTimeCompare(want, key) != 1 {
				return changedError(keyring, made.KeyID)
			}
			return nil
		})
	})
}

// changedError returns the error for a data key that unwraps to another key.
func changedError(keyring Keyring, keyID string) error {
	err := fmt.Errorf("%w: the data key came back changed", ErrDecryptionFailed)
	if p, ok := keyring.(EncryptionProvider); ok {
		return Failure("HealthCheck", p.Type(), keyID, err)
	}
	return err
}
