package provider

import "context"

// ScopedKeyring is a keyring that answers two callers with the same request differently, because it
// looks at their contexts: one that takes a tenant's key from the caller who is logged in, or that
// refuses some callers. A cache of its answers, such as the data-key cache of package service, must
// call CacheScope before each use, and keep the answers of different scopes apart.
//
// A Keyring that decides by context and stands behind a cache must be a ScopedKeyring. One that
// wraps a ScopedKeyring must be one, too, and pass CacheScope on.
type ScopedKeyring interface {
	// CacheScope returns a name for whatever the keyring takes from ctx to answer a request with
	// this encryption context. If it would refuse the caller, it returns its error. It asks no key
	// service.
	CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error)
}
