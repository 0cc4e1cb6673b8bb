package provider

import (
	"context"
	"crypto/subtle"
	"fmt"
)

// Check wraps and unwraps a data key. It is the HealthCheck of a keyring that can do both.
func Check(ctx context.Context, keyring Keyring) error {
	encryptionContext := map[string]string{"purpose": "health check"}
	made, err := keyring.GenerateDataKey(ctx, &GenerateDataKeyRequest{Context: encryptionContext})
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
		return got.WithAccess(func(key []byte) error {
			if subtle.ConstantTimeCompare(want, key) != 1 {
				return fmt.Errorf("%w: the data key came back changed", ErrDecryptionFailed)
			}
			return nil
		})
	})
}
