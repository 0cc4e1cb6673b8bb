package pikostorage

import (
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"unsafe"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"
	"piko.sh/piko/wdk/storage/storage_provider_disk"

	"piko.sh/pikokms"
)

// EncryptAll is an option of piko.New that encrypts every storage provider of an application under
// keys, as Encrypt does. It must be the last option that concerns storage, since it decorates the
// providers that the options before it have registered.
//
//	piko.New(
//		piko.WithStorageProvider("default", disk),
//		piko.WithStorageProvider("media", bucket),
//		pikostorage.EncryptAll(kms),
//	)
//
// The provider of Piko's own assets stays as it is. Without piko.WithSystemStorageProvider, it is
// the folder into which Piko's generator has built them, .piko/blobs in the working directory. An
// application with piko.WithBaseDir must register that folder itself.
// Providers that Encrypt or New has decorated stay as they are, too. A provider that the
// application registers once it runs must be decorated by Encrypt.
//
// If there is no provider to encrypt, or if this version of Piko keeps them in another way, the
// application does not start: EncryptAll panics, as Encrypt does.
func EncryptAll(keys crypto.EncryptionProvider, options ...pikokms.Option) piko.Option {
	return func(c *piko.Container) {
		providers, err := providersOf(c)
		if err != nil {
			panic("pikostorage.EncryptAll: " + err.Error())
		}
		if len(providers) == 0 {
			panic("pikostorage.EncryptAll: no storage provider is registered by the options before it; " +
				"register one with piko.WithStorageProvider")
		}
		if providers[storage.StorageNameSystem] == nil {
			assets, err := storage_provider_disk.NewDiskProvider(storage_provider_disk.Config{
				BaseDirectory: filepath.Join(".piko", "blobs"),
			})
			if err != nil {
				panic("pikostorage.EncryptAll: the folder of Piko's assets: " + err.Error())
			}
			piko.WithSystemStorageProvider(assets)(c)
		}
		for name, inner := range maps.Clone(providers) {
			if name != storage.StorageNameSystem && !isEncrypted(inner) {
				piko.WithStorageProvider(name, Encrypt(inner, keys, options...))(c)
			}
		}
	}
}

// providersOf returns the storage providers that are registered in a container. Piko has no
// function for that, so it reads the field that piko.WithStorageProvider writes.
func providersOf(c *piko.Container) (map[string]storage.ProviderPort, error) {
	const name = "storageProviders"
	field := reflect.ValueOf(c).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[map[string]storage.ProviderPort]() {
		return nil, errors.New("this version of Piko keeps storage providers in another way; " +
			"give each one to piko.WithStorageProvider as pikostorage.Encrypt returns it")
	}
	return *(*map[string]storage.ProviderPort)(unsafe.Pointer(field.UnsafeAddr())), nil
}

// isEncrypted reports whether New has returned a provider.
func isEncrypted(p storage.ProviderPort) bool {
	switch p.(type) {
	case *encrypted, describing:
		return true
	}
	return false
}
