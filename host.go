package pikokms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	parallelism     int
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
// its default. It saves calls of the key service; Host.Close zeroes what is cached. Under BindObjectName each object has an
// encryption context of its own, so that only repeated reads of an object share a data key.
func WithDataKeyCache(limits service.CacheLimits) Option {
	return func(s *settings) { s.service.Cache = &limits }
}

// WithTelemetry says where spans, metrics and events of the calls of key services go. Without it there are none.
func WithTelemetry(t service.Telemetry) Option { return func(s *settings) { s.service.Telemetry = t } }

// WithDefaultCryptoProvider names the registered provider under which objects are written. It is what makes the encryption
// stage register itself, and all that changes when an application switches providers.
func WithDefaultCryptoProvider(name string) Option {
	return func(s *settings) { s.defaultProvider = name }
}

// WithStorage sets the storage that receives the encrypted objects.
func WithStorage(storage Storage) Option { return func(s *settings) { s.storage = storage } }

// WithTransformer registers a stage beside the built-in zstd, zstd-seekable, gzip and s2, for reading; WithEnabledTransformers applies it.
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

// WithParallelism sets how many goroutines encrypt or decrypt one object, as message.Encrypter's Parallelism, and compress it, as
// compress.Stage's: 1 keeps each object on one core and its memory at one frame and the compression's window. The default takes the
// cores that are free, for objects over 1 MiB.
func WithParallelism(n int) Option {
	return func(s *settings) {
		if n < 0 {
			s.refuse("a parallelism of %d; 1 is the least", n)
		}
		s.parallelism = n
	}
}

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
	services       map[string]*service.Service // by the providers' names
	current        atomic.Pointer[service.Service]
	strings        envelope.Decrypter
	encrypter      message.Encrypter
	decrypter      message.Decrypter
	bucket         string // empty if names are not bound
	allowPlaintext bool
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

	registry, err := newRegistry(s.maxSize, s.parallelism)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.providers)), func(name string) bool { return name == s.defaultProvider })
	h := &Host{
		registry: registry, services: make(map[string]*service.Service), storage: s.storage,
		bucket: s.bucket, allowPlaintext: s.allowPlaintext,
	}
	h.encrypter.Keyring = currentKeyring{h}
	if s.bucket != "" {
		h.encrypter.Required = []string{BucketKey, ObjectKey}
	}
	h.encrypter.Parallelism, h.decrypter.Parallelism = s.parallelism, s.parallelism
	h.decrypter.AllowPikoV2 = s.allowPikoV2
	h.strings.AllowPikoV2 = s.allowPikoV2
	for _, name := range append([]string{s.defaultProvider}, names...) {
		behind := service.New(s.providers[name], s.service)
		h.services[name] = behind
		h.strings.Providers = append(h.strings.Providers, behind)
		h.decrypter.Keyrings = append(h.decrypter.Keyrings, behind)
	}
	h.current.Store(h.services[s.defaultProvider])
	encryption := NewCryptoTransformer(h.encrypter, h.decrypter)
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
func (h *Host) CryptoService() *service.Service { return h.current.Load() }

// currentKeyring is the default provider of the moment.
type currentKeyring struct{ h *Host }

func (k currentKeyring) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	return k.h.CryptoService().GenerateDataKey(ctx, request)
}

func (k currentKeyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return k.h.CryptoService().WrapDataKey(ctx, key, encryptionContext)
}

func (k currentKeyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	return k.h.CryptoService().UnwrapDataKey(ctx, request)
}

// RotateKey makes another registered provider the default: from now on objects and strings are written under its key, while
// those under all registered keys are read as before. Rewrap moves old objects, ReEncrypt old strings. The rotation that AWS
// KMS does of a key by itself needs none of these. The error holds ErrConfig.
func (h *Host) RotateKey(name string) error {
	s := h.services[name]
	if s == nil {
		return fmt.Errorf("%w: crypto provider %q is not registered; registered are %s", ErrConfig, name, strings.Join(slices.Sorted(maps.Keys(h.services)), ", "))
	}
	h.current.Store(s)
	return nil
}

// Rewrap moves an object to the default provider's key, to the current format if it is of an older one. The object is replaced
// in one step, when the whole of it is verified; on an error the old one stays. The errors are Get's and Put's.
func (h *Host) Rewrap(ctx context.Context, key string) error {
	stored, err := h.storage.Get(ctx, key)
	if err != nil {
		return err
	}
	closeStored := sync.OnceValue(stored.Close)
	moved, err := h.rewrap(ctx, key, stored)
	if err == nil {
		// The old object is closed before it is replaced, as some systems demand.
		err = h.storage.Put(ctx, key, &closedAtEOF{moved, closeStored})
	}
	if err := errors.Join(err, closeStored()); err != nil {
		return fmt.Errorf("rewrap %s: %w", key, err)
	}
	return nil
}

func (h *Host) rewrap(ctx context.Context, key string, stored io.Reader) (io.Reader, error) {
	start, whole, err := sniff(stored)
	if err != nil {
		return nil, err
	}
	kind, err := h.kindOf(start)
	if err != nil {
		return nil, err
	}
	if kind == encryptedMessage {
		return message.Rewrap(ctx, whole, &h.decrypter, &h.encrypter, h.bound(key))
	}
	content, err := h.reverse(ctx, key, whole)
	if err != nil {
		return nil, err
	}
	return h.chain.Transform(ctx, content, h.bound(key))
}

type closedAtEOF struct {
	io.Reader
	close func() error
}

func (r *closedAtEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		if err := r.close(); err != nil {
			return n, err
		}
	}
	return n, err
}

// ReEncrypt moves a string that Encrypt made to the default provider's key. A string that KMS encrypted itself is moved by KMS,
// and not decrypted here, when both keys are of one Region. The errors are Decrypt's and Encrypt's.
func (h *Host) ReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (string, error) {
	e, err := envelope.Parse(text)
	if err != nil {
		return "", err
	}
	for _, s := range h.services {
		if moved, ok, err := h.CryptoService().ReEncrypt(ctx, s, e, encryptionContext); ok {
			return moved, err
		}
	}
	plaintext, err := h.Decrypt(ctx, text, encryptionContext)
	if err != nil {
		return "", err
	}
	return h.Encrypt(ctx, plaintext, encryptionContext)
}

// DecryptAndReEncrypt decrypts a string and, when it is not under the default provider's key, also returns it moved to that key,
// to be stored in its place; else moved is text itself. The errors are Decrypt's and Encrypt's.
func (h *Host) DecryptAndReEncrypt(ctx context.Context, text string, encryptionContext map[string]string) (plaintext, moved string, err error) {
	if plaintext, err = h.Decrypt(ctx, text, encryptionContext); err != nil {
		return "", "", err
	}
	if e, err := envelope.Parse(text); err == nil && h.CryptoService().Owns(e) {
		return plaintext, text, nil
	}
	if moved, err = h.Encrypt(ctx, plaintext, encryptionContext); err != nil {
		return "", "", err
	}
	return plaintext, moved, nil
}

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
	stored, err := h.EncryptObject(ctx, key, content)
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
	start, whole, err := sniff(stored)
	if err != nil {
		return nil, err
	}
	switch kind, err := h.kindOf(start); {
	case err != nil:
		return nil, err
	case kind == plaintext:
		return &unencrypted{whole}, nil
	case kind == pikoV2Stream:
		return h.registry.Reverse(ctx, whole, nil) // it is bound to no name
	}
	return h.registry.Reverse(ctx, whole, h.bound(key))
}

// kind is what a stored object is.
type kind int

const (
	encryptedMessage kind = iota
	pikoV2Stream
	plaintext
)

// kindOf tells what the object that begins with start is, of the kinds that the host reads.
func (h *Host) kindOf(start []byte) (kind, error) {
	switch isPikoV2 := pikov2.Sniff(start); {
	case header.Sniff(start):
		return encryptedMessage, nil
	case isPikoV2 && h.decrypter.AllowPikoV2:
		return pikoV2Stream, nil
	case h.allowPlaintext:
		return plaintext, nil
	case isPikoV2:
		return 0, fmt.Errorf("%w: %w: AllowPikoV2 lets it be read", provider.ErrInvalidCiphertext, message.ErrPikoV2)
	}
	return 0, fmt.Errorf("%w: it does not begin as an AWS Encryption SDK message; AllowPlaintext lets objects from before encryption be read", ErrPlaintext)
}

// unencrypted is an object from before encryption.
type unencrypted struct{ io.Reader }

// sniff returns the first bytes of a stored object, and the whole of it.
func sniff(stored io.Reader) (start []byte, whole io.Reader, err error) {
	start = make([]byte, header.SniffSize)
	n, err := io.ReadFull(stored, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, err
	}
	return start[:n], io.MultiReader(bytes.NewReader(start[:n]), stored), nil
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
