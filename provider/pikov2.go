package provider

import "context"

// PikoV2Keyring is a provider that also unwraps the data keys of what Piko wrote before it used
// pikokms. Nothing binds those keys to an encryption context or to a use, so only packages pikov2
// and envelope ask for them, where the application allows it.
type PikoV2Keyring interface {
	// Type tells the kind of provider; it is asked only about data of its own kind.
	Type() Type

	// UnwrapPikoV2 recovers a data key from its stored text. An empty text means that the data is
	// sealed under the provider's own key, of which a provider that holds one gives a copy. The
	// error holds ErrInvalidCiphertext, ErrDecryptionFailed or ErrInvalidKey, or is the key
	// service's. The caller closes the result, which has 32 bytes.
	UnwrapPikoV2(ctx context.Context, wrapped string) (*SecureBytes, error)
}
