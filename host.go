package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/envelope"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

var (
	// ErrConfig means that New's options do not fit together; the error says how.
	ErrConfig = errors.New("invalid pikokms configuration")
	// ErrPlaintext means that a stored object is not an encrypted one.
	ErrPlaintext = errors.New("stored object is not encrypted")
)

// Option configures New.
type Option func(*settings)

type settings struct {
	providers       map[string]provider.EncryptionProvider
	defaultProvider string
	storage         Storage
	stages          []Transformer
	enabled         []string
	maxSize         int64
	allowPlaintext  bool
	allowPikoV2     bool
	bucket          string // of BindObjectName
	service         service.Config
	failures        []error
}

func (s *settings) refuse(format string, arguments ...any) {
	s.failures = append(s.failures, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, arguments...)...))
}

// WithCryptoProvider registers an encryption provider under a name. Objects under any registered provider can be read. The
// host asks it through a service.Service: while the provider's key service is down, calls are refused at once with
// service.ErrOpen.
func WithCryptoProvider(name string, p provider.EncryptionProvider) Option {
	return func(s *settings) {
		switch {
		case name == "" || p == nil:
			s.refuse("a crypto provider needs a name and a provider")
		case s.providers[name] != nil:
			s.refuse("crypto provider %q is registered twice", name)
		default:
			s.providers[name] = p
		}
	}
}

// WithDataKeyCache lets each provider's data keys serve several objects and reads, within limits of which a zero field means
// its default. It saves calls of the key service; Host.Close zeroes what is cached.
func WithDataKeyCache(limits service.CacheLimits) Option {
	return func(s *settings) { s.service.Cache = &limits }
}

// WithDefaultCryptoProvider names the registered provider under which objects are written. It is what makes the encryption
// stage register itself, and all that changes when an application switches providers.
func WithDefaultCryptoProvider(name string) Option {
	return func(s *settings) { s.defaultProvider = name }
}

// WithStorage sets the storage that receives the encrypted objects.
func WithStorage(storage Storage) Option { return func(s *settings) { s.storage = storage } }

// WithTransformer registers a stage beside the built-in zstd, gzip and s2, for reading; WithEnabledTransformers applies it.
func WithTransformer(t Transformer) Option {
	return func(s *settings) { s.stages = append(s.stages, t) }
}

// WithEnabledTransformers names the stages to apply to new objects, besides encryption: WithEnabledTransformers("zstd").
func WithEnabledTransformers(names ...string) Option {
	return func(s *settings) { s.enabled = append(s.enabled, names...) }
}

// WithMaxDecompressedSize bounds the size in bytes of compressed objects before compression, both ways. The default is
// compress.DefaultMaxSize, 1 TiB.
func WithMaxDecompressedSize(n int64) Option { return func(s *settings) { s.maxSize = n } }

// AllowPlaintext lets Get return objects that were stored before encryption as they are. Whoever can write to the storage
// can then also have plain content read in place of an encrypted object, so set it only while old objects remain.
func AllowPlaintext() Option { return func(s *settings) { s.allowPlaintext = true } }

// AllowPikoV2 lets Get and Decrypt read what Piko wrote before it used pikokms, too. Such an object is not bound to its name;
// cut between two of its chunks, it reads as a shorter one, without an error; and Get does not know which compression Piko
// applied, so it leaves that to the caller. For strings, see envelope.Decrypter.AllowPikoV2. Set it only while such data
// remain.
func AllowPikoV2() Option { return func(s *settings) { s.allowPikoV2 = true } }

// The encryption context keys of BindObjectName.
const (
	BucketKey = "piko-bucket"
	ObjectKey = "piko-object"
)

// BindObjectName binds every object to its key and to the name of its bucket, or of whatever the storage is: an object that
// is moved, copied or swapped for another in the storage is refused with provider.ErrContextMismatch. The names are required
// encryption context: authenticated, and seen by the key service, but not stored in the object. Whoever reads it with other
// tools states them again, as BucketKey and ObjectKey. Objects from before, or of another bucket name, are refused too.
func BindObjectName(bucket string) Option {
	return func(s *settings) {
		if bucket == "" {
			s.refuse("BindObjectName needs the bucket's name")
		}
		s.bucket = bucket
	}
}

// Host is a storage that encrypts: what is put through it is stored by its chain of stages, and what is got through it is
// the original. It is safe for concurrent use.
type Host struct {
	registry       *Registry
	chain          *Chain
	storage        Storage
	services       []*service.Service // the default provider's first
	strings        envelope.Decrypter
	bucket         string // empty if names are not bound
	allowPlaintext bool
	allowPikoV2    bool
}

// New wires providers, stages and a storage into a Host. The error holds ErrConfig, ErrInvalidTransformer or
// ErrUnknownTransformer.
func New(options ...Option) (*Host, error) {
	s := settings{providers: make(map[string]provider.EncryptionProvider)}
	for _, o := range options {
		o(&s)
	}
	crypto := s.providers[s.defaultProvider]
	switch {
	case s.defaultProvider == "":
		s.refuse("no default crypto provider; name one of %s with WithDefaultCryptoProvider", s.providerNames())
	case crypto == nil:
		s.refuse("default crypto provider %q is not registered; registered are %s", s.defaultProvider, s.providerNames())
	}
	if s.storage == nil {
		s.refuse("no storage; give one with WithStorage")
	}
	if err := errors.Join(s.failures...); err != nil {
		return nil, err
	}

	registry, err := NewRegistry(s.maxSize)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.providers)), func(name string) bool { return name == s.defaultProvider })
	h := &Host{registry: registry, storage: s.storage, bucket: s.bucket, allowPlaintext: s.allowPlaintext, allowPikoV2: s.allowPikoV2}
	h.strings.AllowPikoV2 = s.allowPikoV2
	decrypter := message.Decrypter{AllowPikoV2: s.allowPikoV2}
	for _, name := range append([]string{s.defaultProvider}, names...) {
		behind := service.New(s.providers[name], s.service)
		h.services = append(h.services, behind)
		h.strings.Providers = append(h.strings.Providers, behind)
		decrypter.Keyrings = append(decrypter.Keyrings, behind)
	}
	encrypter := message.Encrypter{Keyring: h.CryptoService()}
	if s.bucket != "" {
		encrypter.Required = []string{BucketKey, ObjectKey}
	}
	encryption := NewCryptoTransformer(encrypter, decrypter)
	for _, t := range append([]Transformer{encryption}, s.stages...) {
		if err := registry.Register(t); err != nil {
			return nil, err
		}
	}
	if h.chain, err = registry.NewChain(append(s.enabled, CryptoTransformerName)...); err != nil {
		return nil, err
	}
	return h, nil
}

// CryptoService returns the service on the default provider: for batches, and for the state of its circuit breaker.
func (h *Host) CryptoService() *service.Service { return h.services[0] }

// Close zeroes cached data keys. It closes neither the providers nor the storage.
func (h *Host) Close() error {
	var failures []error
	for _, s := range h.services {
		failures = append(failures, s.Close())
	}
	return errors.Join(failures...)
}

func (s *settings) providerNames() string {
	if len(s.providers) == 0 {
		return "none (register one with WithCryptoProvider)"
	}
	return strings.Join(slices.Sorted(maps.Keys(s.providers)), ", ")
}

// Registry returns the host's stages.
func (h *Host) Registry() *Registry { return h.registry }

// Chain returns the stages that Put applies.
func (h *Host) Chain() *Chain { return h.chain }

// Put implements Storage: it stores content compressed, if so configured, and encrypted, with one call of the key service.
func (h *Host) Put(ctx context.Context, key string, content io.Reader) error {
	stored, err := h.chain.Transform(ctx, content, h.bound(key))
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return h.storage.Put(ctx, key, stored)
}

// bound returns the encryption context of an object's name.
func (h *Host) bound(key string) map[string]string {
	if h.bucket == "" {
		return nil
	}
	return map[string]string{BucketKey: h.bucket, ObjectKey: key}
}

// Get implements Storage. The content is whole when Read returns io.EOF, and only then. ctx also
// ends the reading of an encrypted object.
//
// The error, and Read's, holds ErrPlaintext for an object that is not encrypted, ErrUnknownTransformer, compress.ErrCorrupt
// or compress.ErrTooLarge, is one of message.Decrypter's, or is the storage's own.
func (h *Host) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	stored, err := h.storage.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	content, err := h.reverse(ctx, key, stored)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, errors.Join(err, stored.Close()))
	}
	return &object{Reader: content, stored: stored}, nil
}

func (h *Host) reverse(ctx context.Context, key string, stored io.Reader) (io.Reader, error) {
	start := make([]byte, header.SniffSize)
	n, err := io.ReadFull(stored, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	whole := io.MultiReader(strings.NewReader(string(start[:n])), stored)
	switch isPikoV2 := pikov2.Sniff(start[:n]); {
	case header.Sniff(start[:n]):
		return h.registry.Reverse(ctx, whole, h.bound(key))
	case isPikoV2 && (h.allowPikoV2 || !h.allowPlaintext):
		return h.registry.Reverse(ctx, whole, nil) // it is bound to no name
	case h.allowPlaintext:
		return whole, nil
	}
	return nil, fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; AllowPlaintext lets objects from before encryption be read", ErrPlaintext)
}

type object struct {
	io.Reader
	stored io.Closer
}

func (o *object) Close() error { return o.stored.Close() }

// WriteTo implements io.WriterTo, so that io.Copy takes what the last stage offers.
func (o *object) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, o.Reader) }

// Encrypt encrypts a string to Piko's string envelope under the default provider. Decrypt must be told the same encryption
// context, which may be nil. The errors are envelope.Encrypt's.
func (h *Host) Encrypt(ctx context.Context, plaintext string, encryptionContext map[string]string) (string, error) {
	return envelope.Encrypt(ctx, h.CryptoService(), &provider.EncryptRequest{Plaintext: plaintext, Context: encryptionContext})
}

// Decrypt decrypts what Encrypt made, under any registered provider. The errors are those of envelope.Decrypter.
func (h *Host) Decrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	return h.strings.Decrypt(ctx, text, encryptionContext)
}

// Delete implements Storage.
func (h *Host) Delete(ctx context.Context, key string) error { return h.storage.Delete(ctx, key) }

// List implements Storage.
func (h *Host) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return h.storage.List(ctx, prefix)
}

var _ Storage = (*Host)(nil)
