package provider

import "context"

// ReEncrypter is a provider whose key service itself encrypts small values, and can move one from
// another key to the provider's own without showing it to anyone.
type ReEncrypter interface {
	EncryptionProvider

	// CanReEncrypt reports whether the key service can move values from the key of another
	// provider.
	CanReEncrypt(from EncryptionProvider) bool

	// ReEncrypt moves a value that the key service itself encrypted, in one call. CanReEncrypt must
	// be true for the provider that the value comes from. The value keeps the request's context.
	ReEncrypt(ctx context.Context, from EncryptionProvider, request *DecryptRequest) (*EncryptResponse, error)
}
