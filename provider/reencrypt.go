package provider

import "context"

// DirectEncrypter is a provider whose key service itself encrypts small values. So its strings need
// not be messages.
type DirectEncrypter interface {
	EncryptionProvider

	// EncryptsDirectly reports whether the key service encrypts values under the provider's key.
	EncryptsDirectly() bool
}

// ReEncrypter is a DirectEncrypter whose key service can also move a value from another key to the
// provider's own without showing it to anyone.
type ReEncrypter interface {
	DirectEncrypter

	// CanReEncrypt reports whether the key service can move values from the key of another
	// provider.
	CanReEncrypt(from EncryptionProvider) bool

	// ReEncrypt moves a value that the key service itself encrypted, in one call. CanReEncrypt must
	// be true for the provider that the value comes from. The value keeps the request's context.
	ReEncrypt(ctx context.Context, from EncryptionProvider, request *DecryptRequest) (*EncryptResponse, error)
}
