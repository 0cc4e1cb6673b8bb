package provider

import "context"

// PikoV2Keyring is a provider that can also unwrap the data keys of what Piko wrote before it used
// pikokms. Nothing binds those keys to an encryption context or to a use. So they are unwrapped
// only if the application allows it.
type PikoV2Keyring interface {
	// Type returns the type of provider. The provider is asked only about data of its own type.
	Type() Type

	// UnwrapPikoV2 returns the data key of a stored text. An empty text means that the data are
	// sealed under the provider's own key; a provider that holds its key returns a copy of it. The
	// result has 32 bytes, and the caller closes it. The error holds ErrInvalidCiphertext,
	// ErrDecryptionFailed or ErrInvalidKey, or is the key service's.
	UnwrapPikoV2(ctx context.Context, wrapped string) (*SecureBytes, error)
}
