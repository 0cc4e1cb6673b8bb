package piko

import "piko.sh/piko/wdk/storage"

// WithStorageProvider registers a storage provider by name.
func WithStorageProvider(string, storage.ProviderPort) Option { return declared }

// WithSystemStorageProvider registers the storage provider of Piko's own objects.
func WithSystemStorageProvider(storage.ProviderPort) Option { return declared }

// WithDefaultStorageProvider names the storage provider to use.
func WithDefaultStorageProvider(string) Option { return declared }

func declared[T any](T) {}
