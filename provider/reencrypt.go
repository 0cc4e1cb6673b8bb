package provider

import "context"

// ReEncrypter is a provider whose key service encrypts small values itself, and can move one from
// another key to the provider's own without showing it to anyone.
type ReEncrypter interface {
	EncryptionProvider

	// CanReEncrypt reports whether the key service can move values from the key of another
	// provider.
	CanReEncrypt(from EncryptionProvider) bool

	// ReEncrypt moves a value that the key service encrypted itself, in one call. CanReEncrypt must
	// hold for the provider that it comes from. The request's context is the value's and stays so.
	ReEncrypt(ctx context.Context, from EncryptionProvider, request *DecryptRequest) (*EncryptResponse, error)
}
