// Package pikostorage encrypts what a Piko application stores. It decorates a storage provider:
// everything that Piko puts through the decorated provider is stored encrypted in the inner one.
//
//	piko.WithStorageProvider("default", pikostorage.Encrypt(disk, kms))
//
//	application ── Piko's storage service ── Encrypt: compression, encryption ── disk, S3, GCS, R2
//
// Uploads name no transformer. Reads return the original, and so do ranges, sizes and hashes. Only
// the content is encrypted. Keys, content types and metadata stay as they are.
//
// # What a call costs
//
// Put and Get call the key service once for each object. The errors are those of [pikokms.Host] and
// of the inner provider, or one of those below. If Put fails, it rewinds the reader, so that Piko
// can repeat the upload.
//
// Stat makes one request more than the inner provider's, to learn the original's size, which is not
// authenticated. It also calls the key service for an object compressed by zstd-seekable or made by
// Piko's own transformers, and reads one that was compressed otherwise to its end. While the key
// service is known to be down, the error holds service.ErrBreakerOpen, so that Piko does not
// announce content that it can't send. GetHash reads the whole object.
//
// No URLs are presigned by the backend: Piko signs its own. Close closes the inner provider.
package pikostorage

import (
	"errors"
	"fmt"
	"slices"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/provider"
)

// Encrypt returns a storage provider that stores its objects in inner, encrypted under keys. keys
// is a crypto provider of this project, such as that of crypto_provider_aws_kms. An application
// also gives it to piko.WithCryptoProvider. The options are those of pikokms.New; WithStorage has
// no effect here.
//
// It calls no key service. It panics if New returns an error, since an application that started
// without encryption would store plaintext.
func Encrypt(inner storage.ProviderPort, keys crypto.EncryptionProvider, options ...pikokms.Option) storage.ProviderPort {
	keys, old, err := oldKeys(keys)
	if err != nil {
		panic("pikostorage.Encrypt: " + err.Error())
	}
	p, err := Keys(keys)
	if err != nil {
		panic("pikostorage.Encrypt: " + err.Error())
	}
	name := string(p.Type())
	encrypted, err := New(inner, slices.Concat([]pikokms.Option{
		pikokms.WithCryptoProvider(name, p), pikokms.WithDefaultCryptoProvider(name),
	}, old, options)...)
	if err != nil {
		panic("pikostorage.Encrypt: " + err.Error())
	}
	return encrypted
}

// Keys returns the pikokms provider within a crypto provider of this project, for
// pikokms.WithCryptoProvider. The error holds pikokms.ErrConfig for other providers. Piko's own are
// among those, since they can't bind a data key to an object.
func Keys(keys crypto.EncryptionProvider) (provider.EncryptionProvider, error) {
	wrapper, ok := keys.(interface {
		Unwrap() provider.EncryptionProvider
	})
	if !ok {
		return nil, fmt.Errorf("%w: crypto provider %T is none of pikokms; "+
			"replace its module in go.mod by the one of pikokms that has the same import path, "+
			"or give New a provider of pikokms", pikokms.ErrConfig, keys)
	}
	return wrapper.Unwrap(), nil
}

// New is Encrypt for providers of package pikokms. The options are those of pikokms.New. They
// include WithCryptoProvider, for one or several providers, and WithDefaultCryptoProvider. They
// can't include WithMessages. The errors are those of pikokms.New.
//
// Of the compressions only zstd-seekable can be enabled. Piko states an object's size before it
// sends the object, and the others would have to be decompressed for that. The error then holds
// pikokms.ErrConfig. Objects that were compressed otherwise before are still read.
//
// With pikokms.BindObjectName each object is bound to its repository and key. If an object is
// copied or swapped within the storage, it is then refused. Copy and Rename then decrypt and
// encrypt objects anew. Otherwise, they are the inner provider's own.
//
// With pikokms.AllowPlaintext two kinds of earlier objects are read: those in plaintext, and those
// that Piko's own transformers made, which are passed to them. To encrypt them, migrate this
// provider onto itself, registered under a second name.
func New(inner storage.ProviderPort, options ...pikokms.Option) (storage.ProviderPort, error) {
	if inner == nil {
		return nil, fmt.Errorf("%w: no storage provider to encrypt", pikokms.ErrConfig)
	}
	// The host only encrypts and decrypts. This package does the storing, so the host needs no
	// storage.
	host, err := pikokms.New(append(options[:len(options):len(options)],
		pikokms.WithStorage(struct{ pikokms.Storage }{}))...)
	if err != nil {
		return nil, err
	}
	if host.CryptoService() == nil {
		return nil, fmt.Errorf("%w: Piko's uploads need a crypto provider; give one with WithCryptoProvider, and not WithMessages", pikokms.ErrConfig)
	}
	for _, name := range host.Transformers() {
		if name != compress.ZstdSeekable && slices.Contains(compress.Formats(), name) {
			return nil, fmt.Errorf("%w: the size of an object that %s compressed is not known before its end, and Piko states it; "+
				"enable %s instead", pikokms.ErrConfig, name, compress.ZstdSeekable)
		}
	}
	return withDescription(&encrypted{inner: inner, host: host}), nil
}

var (
	// ErrPresigned means that the caller asked for a URL that a backend itself serves. Such a URL
	// would hand out ciphertext or store plaintext. Piko signs URLs of its own instead.
	ErrPresigned = errors.New("a backend's presigned URL is not encrypted or decrypted")
	// ErrReplaced means that an object was replaced between two requests, the first of which looked
	// up the transformers of Piko that made it. Piko would have applied those to other content.
	ErrReplaced = errors.New("the object was replaced while it was being read")
	// ErrSourceSpent means that an upload failed after a part of its reader was read, and that the
	// reader can't be rewound. Piko does not repeat such an upload.
	ErrSourceSpent = errors.New("the upload can't be tried again: its reader has been read in part and can't be rewound")
)
