package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

var (
	// ErrConfig means that options of New are wrong or contradict each other. The text names them.
	ErrConfig = errors.New("invalid pikokms configuration")
	// ErrPlaintext means that a stored object is not an encrypted one.
	ErrPlaintext = errors.New("stored object is not encrypted")
)

// Host is a storage that encrypts. Put stores what the transformers make of the content, and Get
// returns the original. A Host is safe for concurrent use.
type Host struct {
	registry       *registry
	chain          *chain
	storage        Storage
	services       map[string]service.Service // by the names of their providers; nil on a host of WithMessages
	current        atomic.Pointer[service.Service]
	strings        envelope.Decrypter
	encrypter      message.Encrypter
	decrypter      message.Decrypter
	bucket         string // empty if names are not bound
	allowPlaintext bool
	openS3EC       openS3EC // nil if objects of the S3 Encryption Client are refused
	close          func() error
}

// New returns a Host with the options' providers, transformers and storage. It asks no key service,
// so a Host can start while one is down. The error holds ErrConfig, ErrInvalidTransformer or
// ErrUnknownTransformer.
func New(options ...Option) (*Host, error) {
	s := settings{providers: make(map[string]provider.EncryptionProvider)}
	for _, o := range options {
		o(&s)
	}
	s.chooseDefault()
	if s.storage == nil {
		s.storage = noStorage{}
	}
	if err := errors.Join(s.failures...); err != nil {
		return nil, err
	}

	h := &Host{storage: s.storage, bucket: s.bucket, allowPlaintext: s.allowPlaintext, openS3EC: s.openS3EC}
	h.close = sync.OnceValue(h.closeServices)
	h.strings.AllowPikoV2 = s.allowPikoV2
	if s.encrypter != nil {
		h.encrypter, h.decrypter = *s.encrypter, *s.decrypter
	} else {
		h.addServices(&s)
	}
	s.configure(h)
	registry, err := newRegistry(&cryptoTransformer{h.encrypter, h.decrypter}, s.maxSize, s.maxWindow, s.parallelism)
	if err != nil {
		return nil, err
	}
	for _, t := range s.transformers {
		if err := registry.register(t); err != nil {
			return nil, err
		}
	}
	h.registry = registry
	if h.chain, err = registry.newChain(append(s.enabled, cryptoName)...); err != nil {
		return nil, err
	}
	return h, nil
}

// addServices puts a service in front of each provider, the default one first.
func (h *Host) addServices(s *settings) {
	h.encrypter.Keyring, h.services = currentKeyring{h}, make(map[string]service.Service)
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(s.providers)), func(name string) bool { return name == s.defaultProvider })
	for _, name := range append([]string{s.defaultProvider}, others...) {
		guarded := service.New(s.providers[name], s.service)
		h.services[name] = guarded
		h.strings.Providers = append(h.strings.Providers, guarded)
		h.decrypter.Keyrings = append(h.decrypter.Keyrings, guarded)
	}
	h.setCurrent(h.services[s.defaultProvider])
}

// CryptoService returns the service of the default provider, which encrypts batches of strings and
// reports the state of its circuit breaker. It is nil on a host of WithMessages.
func (h *Host) CryptoService() service.Service {
	if current := h.current.Load(); current != nil {
		return *current
	}
	return nil
}

func (h *Host) setCurrent(s service.Service) { h.current.Store(&s) }

// currentKeyring encrypts under whichever provider is the default at the moment.
type currentKeyring struct{ h *Host }

func (k currentKeyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	return k.h.CryptoService().GenerateDataKey(ctx, encryptionContext)
}

func (k currentKeyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return k.h.CryptoService().WrapDataKey(ctx, key, encryptionContext)
}

func (k currentKeyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	return k.h.CryptoService().IsCurrent(ctx, request)
}

// Close zeroes cached data keys. It closes neither the providers nor the storage, and the Host goes
// on working without a cache. A second Close returns the first one's result.
func (h *Host) Close() error { return h.close() }

func (h *Host) closeServices() error {
	var failures []error
	for _, s := range h.services {
		failures = append(failures, s.Close())
	}
	return errors.Join(failures...)
}

// Transformers returns the names of the transformers that Put applies, in their order. The last is
// "crypto-service", the encryption.
func (h *Host) Transformers() []string { return h.chain.names() }

// Put compresses content, if WithEnabledTransformers names a compression, encrypts it with one call
// of the key service, and stores it. If content fails, nothing is stored, and an earlier object
// stays.
//
// The error is content's, the storage's or that of the provider, which package provider explains.
// It holds compress.ErrTooLarge for content over WithMaxDecompressedSize that is to be compressed,
// and ErrConfig on a host without a storage.
func (h *Host) Put(ctx context.Context, key string, content io.Reader) error {
	return h.PutWith(ctx, key, content, nil)
}

// PutWith is Put, and the object stores the pairs of encryptionContext, which may be nil, in its
// encryption context: authenticated, visible to those who can read the object, and seen by the key
// service, whose policies and logs can use them. The error holds ErrInvalidOptions for a pair whose
// name begins with "piko-", since only the host states those.
func (h *Host) PutWith(ctx context.Context, key string, content io.Reader, encryptionContext map[string]string) error {
	stored, err := h.EncryptObject(ctx, key, content, encryptionContext)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return h.storage.Put(ctx, key, stored)
}

// bound returns the encryption context that binds an object to its name.
func (h *Host) bound(key string) map[string]string {
	if h.bucket == "" {
		return nil
	}
	return map[string]string{PairBucket: h.bucket, PairObject: key}
}

// Get returns an object's content, which is complete when Read returns io.EOF, and only then. When
// ctx ends, reading an encrypted object fails.
//
// The errors of Get and Read hold ErrPlaintext if the object is not encrypted, and ErrNotObject if
// it is a message that is not a stored object. Without WithCommitmentPolicy, they hold
// message.ErrCommitmentPolicy for a message of an old suite. Otherwise they hold
// ErrInvalidTransformer, ErrUnknownTransformer, compress.ErrCorrupt, compress.ErrTooLarge or
// compress.ErrWindow, or are those of message.Decrypter, of s3ec.Opener or of the storage, such as
// fs.ErrNotExist. They hold s3ec.ErrS3EncryptionClient for an object of AWS's S3 Encryption Client
// without AllowS3EncryptionClient.
func (h *Host) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	stored, err := h.storage.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	content, err := h.reverse(ctx, key, stored, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, errors.Join(err, stored.Close()))
	}
	return &object{Reader: content, close: sync.OnceValue(func() error {
		closeContent(content)
		return stored.Close()
	})}, nil
}

// Encrypt encrypts a string, which may be empty, under the default provider and returns Piko's
// string envelope. Decrypt must be given the same encryption context, which may be nil. Its keys
// must not begin with "piko-", so that an object and a string are never taken for one another. The
// error holds header.ErrInvalidContext for such a key, provider.ErrEncryptionFailed for a string
// whose envelope has more than 16 MiB, or is the provider's.
//
// A column must have room for more than the string. The result is ASCII, and has 16/9 characters
// for each byte of the string, and besides:
//
//	  400  if AWS KMS itself encrypts it: a string of 1 to 4,096 bytes under a symmetric key
//	  550  under a local AES key
//	  900  if it is empty, longer, or one of a batch, and under a symmetric key of AWS KMS
//	1,100  under an RSA key of 2,048 bits of AWS KMS or Azure Key Vault, and 1,550 under one of 4,096
//
// All but the first also store the encryption context, which takes 16/9 characters for each byte of
// its names and values, and of 4 more for each pair. The name of a key that is not in AWS KMS takes
// 16/9 characters for each byte, twice. A column of 16/9 n + 1,000 characters suits strings of up
// to n bytes in most cases, and one of 16/9 n + 1,700 characters under RSA keys.
func (h *Host) Encrypt(ctx context.Context, plaintext string, encryptionContext map[string]string) (string, error) {
	s := h.CryptoService()
	if s == nil {
		return "", fmt.Errorf("%w: a host of WithMessages has no crypto provider for strings", ErrConfig)
	}
	return envelope.Encrypt(ctx, s, plaintext, encryptionContext)
}

// Decrypt decrypts a string that Encrypt returned, under any registered provider.
//
// The error holds provider.ErrInvalidCiphertext if the text is no envelope, or needs AllowPikoV2.
// It holds provider.ErrContextMismatch if the encryption context differs, or if the ciphertext was
// not encrypted as a string. Strings from before pikokms have no encryption context, so it holds
// that for them whenever one is stated. If a key service itself encrypted the string, it does not
// say whether the encryption context or the ciphertext is wrong, and the error holds
// provider.ErrDecryptionFailed. It holds provider.ErrUntrustedKey if no provider has the envelope's
// type. Otherwise it has the error of each provider that was tried.
func (h *Host) Decrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	return h.strings.Decrypt(ctx, text, encryptionContext)
}

// Delete removes an object of the storage. The error is the storage's, and holds fs.ErrNotExist if
// there is no such object.
func (h *Host) Delete(ctx context.Context, key string) error { return h.storage.Delete(ctx, key) }

// List yields the keys of the storage that begin with prefix, whether their objects are encrypted
// or not. It asks no key service. The order and the errors are the storage's.
func (h *Host) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return h.storage.List(ctx, prefix)
}

var _ Storage = (*Host)(nil)
