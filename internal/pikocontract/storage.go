package piko

import (
	"piko.sh/piko/internal/bootstrap"
	"piko.sh/piko/wdk/storage"
)

// WithStorageProvider registers a storage provider by name.
func WithStorageProvider(name string, provider storage.ProviderPort) Option {
	return func(c *bootstrap.Container) { c.AddStorageProvider(name, provider) }
}

// WithSystemStorageProvider registers the storage provider of Piko's own objects.
func WithSystemStorageProvider(provider storage.ProviderPort) Option {
	return WithStorageProvider(storage.StorageNameSystem, provider)
}

// WithDefaultStorageProvider names the storage provider to use.
func WithDefaultStorageProvider(string) Option { return func(*bootstrap.Container) {} }

// WithActionMaxBodyBytes limits the size of an action's request, in bytes.
func WithActionMaxBodyBytes(int64) Option { return func(*bootstrap.Container) {} }

// WithMaxMultipartFormBytes limits how much of a form is held in memory, in bytes.
func WithMaxMultipartFormBytes(int64) Option { return func(*bootstrap.Container) {} }
