package provider

import "context"

// VersionedKeyring is a keyring that knows whether a data key is wrapped as it would wrap one now.
// So messages that a rotation has left under older versions of a key can be found and rewrapped.
// All providers of pikokms are VersionedKeyrings.
type VersionedKeyring interface {
	Wrapper

	// IsCurrent reports whether a data key is under the keyring's own key, in the version with
	// which the keyring wraps now. It is false if the keyring can't find out. If a data key names
	// its key without a version, as it does under AWS KMS, every version is current.
	//
	// It asks no key service about a data key that names another key. The result is no
	// proof that the data key unwraps. The errors are those of UnwrapDataKey.
	IsCurrent(ctx context.Context, request *UnwrapDataKeyRequest) (bool, error)
}
