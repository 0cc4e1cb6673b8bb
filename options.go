package pikokms

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// Option configures New.
type Option func(*settings)

type settings struct {
	providers       map[string]provider.EncryptionProvider
	defaultProvider string
	storage         Storage
	transformers    []Transformer
	enabled         []string
	maxSize         int64
	limits          header.Limits
	allowPlaintext  bool
	allowPikoV2     bool
	allowForeign    bool
	bucket          string // of BindObjectName
	parallelism     int
	service         service.Config
	failures        []error
}

func (s *settings) refuse(format string, arguments ...any) {
	s.failures = append(s.failures, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, arguments...)...))
}

// WithCryptoProvider registers an encryption provider under a name. Objects under any registered
// provider can be read. The host asks it through a service.Service: while the provider's key
// service is down, calls are refused at once with service.ErrOpen.
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

// WithDataKeyCache lets each provider's data keys serve several objects and reads, within limits of
// which a zero field means its default. It saves calls of the key service; Host.Close zeroes what
// is cached. Under BindObjectName each object has an encryption context of its own, so that only
// repeated reads of an object share a data key.
func WithDataKeyCache(limits service.CacheLimits) Option {
	return func(s *settings) { s.service.Cache = &limits }
}

// WithTelemetry says where spans, metrics and events of the calls of key services go. Without it
// there are none.
func WithTelemetry(t service.Telemetry) Option { return func(s *settings) { s.service.Telemetry = t } }

// WithDefaultCryptoProvider names the registered provider under which objects are written. It is
// what makes the encryption transformer register itself, and all that changes when an application
// switches providers.
func WithDefaultCryptoProvider(name string) Option {
	return func(s *settings) { s.defaultProvider = name }
}

// WithStorage sets the storage that receives the encrypted objects.
func WithStorage(storage Storage) Option { return func(s *settings) { s.storage = storage } }

// WithTransformer registers a transformer beside the built-in zstd, zstd-seekable, gzip and s2, for
// reading; WithEnabledTransformers applies it.
func WithTransformer(t Transformer) Option {
	return func(s *settings) { s.transformers = append(s.transformers, t) }
}

// WithEnabledTransformers names the transformers to apply to new objects, besides encryption:
// WithEnabledTransformers("zstd").
func WithEnabledTransformers(names ...string) Option {
	return func(s *settings) { s.enabled = append(s.enabled, names...) }
}

// WithMaxDecompressedSize bounds the size in bytes of compressed objects before compression, both
// ways. The default is compress.DefaultMaxSize, 1 TiB.
func WithMaxDecompressedSize(n int64) Option { return func(s *settings) { s.maxSize = n } }

// WithHeaderLimits sets what is read of an object's header, where the defaults are too narrow for
// messages that others wrote: 16 encrypted data keys, 1,024 pairs of encryption context, 256 KiB. A
// zero field means its default. An object over a limit is refused with header.ErrLimit.
func WithHeaderLimits(limits header.Limits) Option {
	return func(s *settings) { s.limits = limits }
}

// WithParallelism sets how many goroutines encrypt or decrypt one object, as message.Encrypter's
// Parallelism, and compress it, as compress.Transformer's: 1 keeps each object on one core and its
// memory at one frame and the compression's window. The default takes the cores that are free, for
// objects over 1 MiB.
func WithParallelism(n int) Option {
	return func(s *settings) {
		if n < 0 {
			s.refuse("a parallelism of %d; 1 is the least", n)
		}
		s.parallelism = n
	}
}

// AllowPlaintext lets Get return objects that were stored before encryption as they are. Whoever
// can write to the storage can then also have plain content read in place of an encrypted object,
// so set it only while old objects remain, and move them with Host.Migrate.
func AllowPlaintext() Option { return func(s *settings) { s.allowPlaintext = true } }

// AllowPikoV2 lets Get and Decrypt read what Piko wrote before it used pikokms, too. Such an object
// is not bound to its name; cut between two of its chunks, it reads as a shorter one, without an
// error; and Get does not know which compression Piko applied, so it leaves that to the caller.
//
// Nothing tells the uses of a key apart in what Piko wrote: who can have the application encrypt a
// string of their choice under the same key of AWS KMS, and can write to the storage, can make an
// object of that format. For strings, see envelope.Decrypter.AllowPikoV2. Set it only while such
// data remain, and move the objects with Host.Migrate.
func AllowPikoV2() Option { return func(s *settings) { s.allowPikoV2 = true } }

// AllowForeignMessages lets messages be read that do not say that they are stored objects: those of
// AWS's tools and of package message. Strings are refused all the same.
//
// Whoever can have the key encrypt something else, and can write to the storage, can then pass it
// off as an object: a message that a tool made for another purpose, or one whose data key is a
// value of 32 bytes that the application had AWS KMS encrypt. Set it only where nothing else is
// encrypted under the keys, or while such objects remain, and move them with Host.Migrate.
func AllowForeignMessages() Option { return func(s *settings) { s.allowForeign = true } }

// The encryption context keys of BindObjectName.
const (
	BucketKey = "piko-bucket"
	ObjectKey = "piko-object"
)

// BindObjectName binds every object to its key and to the name of its bucket, or of whatever the
// storage is: an object that is moved, copied or swapped for another in the storage is refused with
// provider.ErrContextMismatch. The names are required encryption context: authenticated, and seen
// by the key service, but not stored in the object. Whoever reads it with other tools states them
// again, as BucketKey and ObjectKey. Objects from before, or of another bucket name, are refused
// too.
func BindObjectName(bucket string) Option {
	return func(s *settings) {
		if bucket == "" {
			s.refuse("BindObjectName needs the bucket's name")
		}
		s.bucket = bucket
	}
}

func (s *settings) providerNames() string {
	if len(s.providers) == 0 {
		return "none (register one with WithCryptoProvider)"
	}
	return strings.Join(slices.Sorted(maps.Keys(s.providers)), ", ")
}
