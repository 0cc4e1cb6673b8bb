// Package storage_provider_disk stands in for Piko's package of that path: it declares what the
// bootstrap of an application names.
package storage_provider_disk

import (
	"errors"

	"piko.sh/piko/wdk/storage"
)

// Config says where objects are stored.
type Config struct{ BaseDirectory string }

// NewDiskProvider is declared only: it returns an error.
func NewDiskProvider(Config, ...storage.ProviderOption) (storage.ProviderPort, error) {
	return nil, errors.New("storage_provider_disk: this is a declaration; build with Piko's own package")
}
