package provider

// KeySelector is a Provider whose key service has other keys, too, such as those that requests of
// Piko's crypto service name.
type KeySelector interface {
	Provider

	// Under returns a provider for another key of the key service, which need not be trusted
	// before. The two share their connections and the keys that they trust: a key under which one
	// has encrypted is trusted by both. The result decrypts only under a key that is trusted. Its
	// Close does nothing.
	Under(keyID string) Provider
}
