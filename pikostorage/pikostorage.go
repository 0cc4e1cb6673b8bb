// Package pikostorage encrypts what a Piko application stores. It decorates a storage provider, and
// everything that Piko puts through the decorated one lies encrypted in the inner one:
//
//	piko.WithStorageProvider("default", pikostorage.Encrypt(disk, kms))
//
//	application ── Piko's storage service ── Encrypt: compression, encryption ── disk, S3, GCS, R2
//
// Uploads name no transformer. What is read is the original: ranges, sizes and hashes too. Content
// is all that is encrypted: keys, content types and metadata stay as they are.
package pikostorage

import (
	"errors"
	"fmt"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
)

// Encrypt returns a storage provider whose objects are stored in inner, encrypted under keys. The
// keys are a crypto provider that this project has in the place of Piko's own, such as that of
// crypto_provider_aws_kms, which an application also gives to piko.WithCryptoProvider. The options
// are those of pikokms.New, of which WithStorage has no effect here.
//
// It calls no key service, and it panics where New returns an error: an application that started
// all the same would store in the clear.
func Encrypt(inner storage.ProviderPort, keys crypto.EncryptionProvider, options ...pikokms.Option) storage.ProviderPort {
	p, err := Keys(keys)
	if err != nil {
		panic("pikostorage.Encrypt: " + err.Error())
	}
	name := string(p.Type())
	encrypted, err := New(inner, append([]pikokms.Option{
		pikokms.WithCryptoProvider(name, p), pikokms.WithDefaultCryptoProvider(name),
	}, options...)...)
	if err != nil {
		panic("pikostorage.Encrypt: " + err.Error())
	}
	return encrypted
}

// Keys returns the provider of package pikokms that stands behind a crypto provider of this
// project, for pikokms.WithCryptoProvider. The error holds pikokms.ErrConfig: Piko's own providers
// can't bind a data key to an object, and so don't do.
func Keys(keys crypto.EncryptionProvider) (provider.EncryptionProvider, error) {
	behind, ok := keys.(interface {
		Unwrap() provider.EncryptionProvider
	})
	if !ok {
		return nil, fmt.Errorf("%w: crypto provider %T is none of pikokms; "+
			"replace its module in go.mod by the one of pikokms that has the same import path, "+
			"or give New a provider of pikokms", pikokms.ErrConfig, keys)
	}
	return behind.Unwrap(), nil
}

// New is Encrypt for keys of any provider of package pikokms, of which there may be several: the
// options are those of pikokms.New, WithCryptoProvider and WithDefaultCryptoProvider among them.
// The errors are those of pikokms.New.
//
// With pikokms.BindObjectName each object is bound to its repository and key. An object that is
// copied or swapped in the storage itself is then refused; Copy and Rename decrypt and encrypt
// objects, where they are the inner provider's own without it.
//
// With pikokms.AllowPlaintext objects from before are read: those in plaintext, and those that
// Piko's own transformers made, which are passed to them. A migration from this provider onto
// itself, registered under a second name, encrypts them.
func New(inner storage.ProviderPort, options ...pikokms.Option) (storage.ProviderPort, error) {
	if inner == nil {
		return nil, fmt.Errorf("%w: no storage provider to encrypt", pikokms.ErrConfig)
	}
	// The host encrypts and decrypts, and the storing is done here, so that it needs no storage.
	host, err := pikokms.New(append(options[:len(options):len(options)],
		pikokms.WithStorage(struct{ pikokms.Storage }{}))...)
	if err != nil {
		return nil, err
	}
	return withOptionalPorts(&encrypted{inner: inner, host: host}), nil
}

var (
	// ErrPresigned means that a URL was asked for that a backend itself serves: it would hand out
	// ciphertext and store plaintext. Piko signs URLs of its own in its place.
	ErrPresigned = errors.New("a backend's presigned URL is not encrypted or decrypted")
	// ErrSourceSpent means that an upload failed after its reader had been read in part, and that
	// the reader can't be rewound. Piko does not try such an upload again.
	ErrSourceSpent = errors.New("the upload can't be tried again: its reader has been read in part and can't be rewound")
)
