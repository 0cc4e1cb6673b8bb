package provider

import "context"

// DirectEncrypter is a key service that itself encrypts small values. That is how Piko encrypts
// strings. Everything else is encrypted under a data key.
type DirectEncrypter interface {
	EncryptionProvider

	// EncryptsDirectly reports whether the key service encrypts values under the provider's key.
	EncryptsDirectly() bool

	// EncryptDirectly encrypts a value by a call of the key service. It also returns the ID of the
	// key that the ciphertext is under. The ciphertext is nil if the key service does not encrypt a
	// value of this size, or no value under this key.
	EncryptDirectly(ctx context.Context, value []byte, encryptionContext map[string]string) (ciphertext []byte, keyID string, err error)

	// DecryptDirectly decrypts a ciphertext of EncryptDirectly. The caller clears the result.
	DecryptDirectly(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error)
}

// ReEncrypter is a DirectEncrypter whose key service can also move a value from another key to the
// provider's own without showing it to anyone.
type ReEncrypter interface {
	DirectEncrypter

	// CanReEncrypt reports whether the key service can move values from the key of another
	// provider.
	CanReEncrypt(from EncryptionProvider) bool

	// ReEncrypt moves a ciphertext of EncryptDirectly in one call, and also returns the ID of the
	// key that the value is under then. CanReEncrypt must be true for the provider that the value
	// comes from. The value keeps its encryption context.
	ReEncrypt(ctx context.Context, from EncryptionProvider, ciphertext []byte, encryptionContext map[string]string) (moved []byte, keyID string, err error)
}
