package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"piko.sh/pikokms/compress"
)

var (
	// ErrUnknownTransformer means that a transformer is not registered; the error names it.
	ErrUnknownTransformer = errors.New("unknown transformer")
	// ErrInvalidTransformer means that a transformer can't be registered, or can't have its place
	// in a chain.
	ErrInvalidTransformer = errors.New("invalid transformer")
)

// Registry holds transformers by name. It is safe for concurrent use.
type Registry struct {
	mu           sync.RWMutex
	transformers map[string]Transformer
}

// NewRegistry returns a registry with the transformers of all formats of package compress. They
// refuse streams of more than maxDecompressedSize bytes before compression, both ways; 0 means
// compress.DefaultMaxSize.
func NewRegistry(maxDecompressedSize int64) (*Registry, error) {
	return newRegistry(maxDecompressedSize, 0, 0)
}

func newRegistry(maxDecompressedSize int64, maxWindow, parallelism int) (*Registry, error) {
	r := &Registry{transformers: make(map[string]Transformer)}
	for _, format := range compress.Formats() {
		t, err := compress.New(format, maxDecompressedSize)
		if err != nil {
			return nil, err
		}
		t.MaxWindow, t.Parallelism = maxWindow, parallelism
		if err := r.Register(compression{t}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

type compression struct{ *compress.Transformer }

func (compression) Type() TransformerType { return TransformerCompression }

func (c compression) Open(_ context.Context, stored SizedReaderAt, _ any) (SizedReaderAt, error) {
	if c.Name() != compress.ZstdSeekable {
		return nil, fmt.Errorf("%w: the object was compressed by %s, which can only be read from its beginning; %s has random access", ErrNotSeekable, c.Name(), compress.ZstdSeekable)
	}
	r, err := c.OpenSeekable(stored, stored.Size())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Register adds a transformer. The error holds ErrInvalidTransformer if the name is in use or has
// characters that names may not have. It also does if t is a second encryption transformer, or if t
// would come after encryption, where the object could not name it.
func (r *Registry) Register(t Transformer) error {
	name := t.Name()
	if !validName(name) {
		return fmt.Errorf("%w: name %q; names have lower-case letters, digits, '.', '_' and '-'", ErrInvalidTransformer, name)
	}
	if t.Type() != TransformerEncryption && t.Priority() >= cryptoPriority {
		return fmt.Errorf("%w: %s has priority %d; the chain is recorded inside the encryption of priority %d, which must come last", ErrInvalidTransformer, name, t.Priority(), cryptoPriority)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.transformers[name] != nil {
		return fmt.Errorf("%w: %s is registered already", ErrInvalidTransformer, name)
	}
	if t.Type() == TransformerEncryption && r.encryption() != nil {
		return fmt.Errorf("%w: %s is a second encryption transformer", ErrInvalidTransformer, name)
	}
	r.transformers[name] = t
	return nil
}

func validName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// encryption returns the encryption transformer, or nil. The caller holds the lock.
func (r *Registry) encryption() Transformer {
	for _, t := range r.transformers {
		if t.Type() == TransformerEncryption {
			return t
		}
	}
	return nil
}

func (r *Registry) registeredEncryption() (Transformer, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.encryption(); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: no encryption transformer is registered", ErrUnknownTransformer)
}

// Get returns the transformer of a name. The error holds ErrUnknownTransformer.
func (r *Registry) Get(name string) (Transformer, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.transformers[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %.100q; registered are %s", ErrUnknownTransformer, name, strings.Join(slices.Sorted(maps.Keys(r.transformers)), ", "))
}

// Reverse returns the original of a stored object. It needs nothing but the object. The encryption
// transformer verifies and decrypts it. The encryption context then names the transformers that
// were applied before. It must also have each of the stated pairs. The error is the encryption
// transformer's, or holds ErrUnknownTransformer or ErrInvalidTransformer.
func (r *Registry) Reverse(ctx context.Context, input io.Reader, stated map[string]string) (io.Reader, error) {
	encryption, err := r.registeredEncryption()
	if err != nil {
		return nil, err
	}
	plain, err := encryption.Reverse(ctx, input, EncryptionContext(stated))
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(plain, encryption)
	if err != nil {
		return nil, err
	}
	return chain.reverse(ctx, plain)
}

// Open gives random access to the original of a stored object, with one call of the key service.
// The rest is as in Reverse. The error may also hold ErrNotSeekable.
func (r *Registry) Open(ctx context.Context, stored SizedReaderAt, stated map[string]string) (SizedReaderAt, error) {
	encryption, err := r.registeredEncryption()
	if err != nil {
		return nil, err
	}
	original, err := openThrough(ctx, encryption, stored, EncryptionContext(stated))
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(original, encryption)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(chain.transformers) {
		if original, err = openThrough(ctx, t, original, nil); err != nil {
			return nil, err
		}
	}
	return original, nil
}

func openThrough(ctx context.Context, t Transformer, stored SizedReaderAt, options any) (SizedReaderAt, error) {
	seekable, ok := t.(SeekableTransformer)
	if !ok {
		return nil, fmt.Errorf("%w: transformer %s has none", ErrNotSeekable, t.Name())
	}
	original, err := seekable.Open(ctx, stored, options)
	if err != nil {
		return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
	}
	return original, nil
}
