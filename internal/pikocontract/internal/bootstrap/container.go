// Package bootstrap stands in for Piko's package of that path: it declares the options of an
// application. A Piko application has Piko's own in its place.
package bootstrap

import (
	"piko.sh/piko/internal/crypto/crypto_domain"
	"piko.sh/piko/wdk/storage"
)

// Option configures a Container.
type Option func(*Container)

// Container holds what an application was configured with.
type Container struct {
	cryptoProviders map[string]crypto_domain.EncryptionProvider
	cryptoDefault   string

	storageProviders map[string]storage.ProviderPort // pikostorage reads it by this name
}

// AddCryptoProvider registers a provider by name.
func (c *Container) AddCryptoProvider(name string, provider crypto_domain.EncryptionProvider) {
	if c.cryptoProviders == nil {
		c.cryptoProviders = map[string]crypto_domain.EncryptionProvider{}
	}
	c.cryptoProviders[name] = provider
}

// SetCryptoDefaultProvider names the provider to use.
func (c *Container) SetCryptoDefaultProvider(name string) { c.cryptoDefault = name }

// AddStorageProvider registers a storage provider by name.
func (c *Container) AddStorageProvider(name string, provider storage.ProviderPort) {
	if c.storageProviders == nil {
		c.storageProviders = map[string]storage.ProviderPort{}
	}
	c.storageProviders[name] = provider
}
