// Package storage_provider_disk stands in for Piko's package of that path: it declares what the
// bootstrap of an application names.
package storage_provider_disk

import "piko.sh/piko/wdk/storage"

// Config says where objects are stored.
type Config struct{ BaseDirectory string }

// NewDiskProvider is declared only: it returns a provider whose methods panic.
func NewDiskProvider(c Config, _ ...storage.ProviderOption) (storage.ProviderPort, error) {
	return Declared{Config: c}, nil
}

// Declared is the provider that NewDiskProvider returns here.
type Declared struct {
	storage.ProviderPort
	Config Config
}
