package pikokms

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
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
	maxWindow       int
	limits          header.Limits
	commitment      message.CommitmentPolicy
	allowPlaintext  bool
	allowPikoV2     bool
	allowForeign    bool
	openS3EC        openS3EC
	bucket          string // of BindObjectName
	parallelism     int
	service         service.Config
	encrypter       *message.Encrypter // of WithMessages
	decrypter       *message.Decrypter
	failures        []error
}

func (s *settings) refuse(format string, arguments ...any) {
	s.failures = append(s.failures, fmt.Errorf("%w: "+format, append([]any{ErrConfig}, arguments...)...))
}

// WithCryptoProvider registers an encryption provider under a name. Objects under any registered
// provider can be read. The host asks the provider through a service.Service: while the key service
// is down, calls fail at once with service.ErrBreakerOpen.
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

// WithDataKeyCache uses each provider's data keys for several objects and reads, within limits,
// which saves calls of the key service. A zero field means its default. Host.Close zeroes the
// cache. Under BindObjectName each object has its own encryption context, so only repeated reads of
// one object share a data key. Messages that are signed or for several recipients are not cached;
// service.CacheLimits explains why.
//
// A provider that picks a data key by the caller's ctx, as one of package branchkey may do,
// picks on each request, even if the cache has the data key. A provider of your own that does so
// must be a provider.ScopedKeyring.
func WithDataKeyCache(limits service.CacheLimits) Option {
	return func(s *settings) { s.service.Cache = &limits }
}

// WithTelemetry sends spans, metrics and events of the calls of key services to t. By default there
// are none.
func WithTelemetry(t service.Telemetry) Option { return func(s *settings) { s.service.Telemetry = t } }

// WithDefaultCryptoProvider names the registered provider under which objects and strings are
// written. It is needed only if several providers are registered. To switch providers, an
// application changes this option alone.
func WithDefaultCryptoProvider(name string) Option {
	return func(s *settings) { s.defaultProvider = name }
}

// WithMessages writes messages with e and reads them with d, instead of with providers. It is for
// programs that need what the other options do not offer, such as recipients, signatures or
// required pairs. If d.Accept is nil, only stored objects are read. The host then encrypts no
// strings, since it has no provider, and Host.SetDefaultCryptoProvider has nothing to choose from.
func WithMessages(e message.Encrypter, d message.Decrypter) Option {
	return func(s *settings) { s.encrypter, s.decrypter = &e, &d }
}

// WithStorage sets the storage that receives the encrypted objects. A host without a storage
// encrypts strings, and objects for a storage that the caller drives. What needs a storage then
// fails with ErrConfig.
func WithStorage(storage Storage) Option { return func(s *settings) { s.storage = storage } }

// WithTransformer registers a transformer for reading, beside those for the built-in formats of
// package compress. To apply it to new objects, name it in WithEnabledTransformers.
func WithTransformer(t Transformer) Option {
	return func(s *settings) { s.transformers = append(s.transformers, t) }
}

// WithEnabledTransformers names the transformers that are applied to new objects before encryption,
// for example WithEnabledTransformers("zstd").
func WithEnabledTransformers(names ...string) Option {
	return func(s *settings) { s.enabled = append(s.enabled, names...) }
}

// WithMaxDecompressedSize bounds the size in bytes of objects before compression, both when they
// are written and when they are read. The default is 1 TiB.
func WithMaxDecompressedSize(n int64) Option { return func(s *settings) { s.maxSize = n } }

// WithMaxWindow bounds the window in bytes that the writer of an object compressed by zstd or
// zstd-seekable may have chosen, since reading takes as much memory. It sets the MaxWindow of
// compress.Transformer. The default is 8 MiB, twice what hosts write. An object over it is refused
// with compress.ErrWindow.
func WithMaxWindow(n int) Option {
	return func(s *settings) {
		if n < 0 {
			s.refuse("a window of at most %d bytes", n)
		}
		s.maxWindow = n
	}
}

// WithHeaderLimits sets the limits for reading an object's header, for messages of other writers
// that exceed the defaults: 16 encrypted data keys, 1,024 pairs of encryption context, 256 KiB. A
// zero field means its default. An object over a limit is refused with header.ErrLimit.
func WithHeaderLimits(limits header.Limits) Option {
	return func(s *settings) { s.limits = limits }
}

// WithCommitmentPolicy sets whether objects may be read that do not commit to their key, as
// messages of the nine oldest of the eleven algorithm suites. With
// message.RequireEncryptAllowDecrypt they are read. Since no host has written such a message, it
// takes AllowForeignMessages, too. Whoever has the data key of one can make it open to two contents
// under two keys; move such objects with Host.Migrate. The default refuses them with
// message.ErrCommitmentPolicy. What is written always commits, so message.ForbidEncryptAllowDecrypt
// is refused.
func WithCommitmentPolicy(policy message.CommitmentPolicy) Option {
	return func(s *settings) {
		if policy != message.RequireEncryptRequireDecrypt && policy != message.RequireEncryptAllowDecrypt {
			s.refuse("the commitment policy %v; a host writes only messages with key commitment, so it takes %v or %v", policy, message.RequireEncryptRequireDecrypt, message.RequireEncryptAllowDecrypt)
		}
		s.commitment = policy
	}
}

// WithParallelism sets how many goroutines encrypt, decrypt or compress one object, as Parallelism
// of message.Encrypter and compress.Transformer does. With 1 each object stays on one core, and
// takes the memory of one frame and of the compression's window. By default, objects over 1 MiB use
// the cores that are free.
func WithParallelism(n int) Option {
	return func(s *settings) {
		if n < 0 {
			s.refuse("a parallelism of %d; 1 is the least", n)
		}
		s.parallelism = n
	}
}

// AllowPlaintext makes Get return objects that are not encrypted as they are. An attacker who can
// write to the storage can then also plant plain content in place of an encrypted object. Set it
// only while old objects remain, and move them with Host.Migrate. In S3, each read of plain content
// takes a request more, for an instruction file of AWS's S3 Encryption Client.
func AllowPlaintext() Option { return func(s *settings) { s.allowPlaintext = true } }

// AllowPikoV2 makes Get and Decrypt also read what Piko wrote before it used pikokms. Such an
// object is not bound to its name. If it was cut between two of its chunks, it reads as a shorter
// one, without an error. Get does not know which compression Piko applied, so the caller must undo
// it.
//
// Piko's old format does not separate the uses of a key. An attacker who can make the application
// encrypt a chosen string under the same key of AWS KMS, and who can write to the storage, can make
// an object of that format.
//
// Piko encrypted three things under a local key in the same way: strings, the data keys of batches,
// and the chunks of streams. Under AWS KMS, a string looks like the data key of a batch. A data key
// that package message wraps without an encryption context looks the same again. Data keys of
// objects and strings of pikokms never do, since they are bound to their use. So an attacker who
// can write strings to the application's database and see what it decrypts can have such a data key
// or chunk decrypted in place of a string. An attacker who can have strings of their choice
// encrypted can pass one of them off as a data key, and strings under it as the application's.
//
// Set it only while such data remain, move the objects with Host.Migrate, and give pikokms another
// key than Piko had. A provider reads old strings if it is a provider.PikoV2Keyring.
func AllowPikoV2() Option { return func(s *settings) { s.allowPikoV2 = true } }

// AllowForeignMessages makes the host read messages that do not state whether they are stored
// objects: those of AWS's tools and of package message. Strings are still refused.
//
// An attacker who can encrypt something else under the key, and who can write to the storage, can
// then pass it off as an object. That may be a message that a tool made for another purpose, or one
// whose data key is a value of 32 bytes that AWS KMS encrypted for the application. Set it only if
// nothing else is encrypted under the keys, or while such objects remain, and move them with
// Host.Migrate.
func AllowForeignMessages() Option { return func(s *settings) { s.allowForeign = true } }

// AllowS3EncryptionClient makes the host also read objects that AWS's S3 Encryption Client wrote,
// in the storages of packages s3storage and blobstorage. Host.Migrate makes stored objects of them,
// with the pairs of their encryption context, and removes the client's metadata and instruction
// file. Without it they are refused with s3ec.ErrS3EncryptionClient.
//
// Such an object is not bound to its name, and it is decrypted in memory, as a whole. One of format
// 1 or 2 does not commit to its key. Set it only while such objects remain.
//
// All hosts of one Option share its memory.
func AllowS3EncryptionClient(c s3ec.Config) Option {
	open := s3ec.Opener(c)
	return func(s *settings) { s.openS3EC = open }
}

// The names of the pairs of the encryption context that BindObjectName requires.
const (
	PairBucket = "piko-bucket"
	PairObject = "piko-object"
)

// BindObjectName binds every object to its key and to a name of its bucket or storage. An object
// that is moved, copied or swapped for another in the storage is refused with
// provider.ErrContextMismatch. So are objects that were stored without this option or under another
// bucket name; [Host.BindObject] binds the former. The names are required pairs of the encryption
// context: authenticated, and seen by the key service, but not stored in the object. To read the
// object with other tools, state them again as PairBucket and PairObject.
func BindObjectName(bucket string) Option {
	return func(s *settings) {
		if bucket == "" {
			s.refuse("BindObjectName needs the bucket's name")
		}
		s.bucket = bucket
	}
}

// chooseDefault chooses the default provider, and refuses options that determine none.
func (s *settings) chooseDefault() {
	switch {
	case s.encrypter != nil && len(s.providers) > 0:
		s.refuse("WithMessages takes the place of crypto providers; leave one of them out")
	case s.encrypter != nil:
	case s.defaultProvider != "" && s.providers[s.defaultProvider] == nil:
		s.refuse("default crypto provider %q is not registered; registered are %s", s.defaultProvider, s.providerNames())
	case s.defaultProvider != "":
	case len(s.providers) == 1:
		for name := range s.providers {
			s.defaultProvider = name
		}
	default:
		s.refuse("no default crypto provider; name one of %s with WithDefaultCryptoProvider", s.providerNames())
	}
}

// configure applies the options to the Encrypter and the Decrypter of h.
func (s *settings) configure(h *Host) {
	if s.bucket != "" {
		h.encrypter.Required = append(slices.Clone(h.encrypter.Required), PairBucket, PairObject)
	}
	if s.parallelism != 0 {
		h.encrypter.Parallelism, h.decrypter.Parallelism = s.parallelism, s.parallelism
	}
	if s.limits != (header.Limits{}) {
		h.decrypter.Limits = s.limits
	}
	if s.commitment != message.RequireEncryptRequireDecrypt {
		h.decrypter.CommitmentPolicy = s.commitment
	}
	h.decrypter.AllowPikoV2 = h.decrypter.AllowPikoV2 || s.allowPikoV2
	if h.decrypter.Accept == nil {
		h.decrypter.Accept = acceptObject
		if s.allowForeign {
			h.decrypter.Accept = acceptForeign
		}
	}
}

func (s *settings) providerNames() string {
	if len(s.providers) == 0 {
		return "none (register one with WithCryptoProvider)"
	}
	return strings.Join(slices.Sorted(maps.Keys(s.providers)), ", ")
}
