package pikokms

import (
	"cmp"
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

// ChainKey is the encryption context key under which an object names the stages below its encryption, in the order in which
// they were applied, separated by commas. It is absent when there are none.
const ChainKey = "piko-transformers"

var (
	// ErrUnknownTransformer means that a stage is not registered; the error names it.
	ErrUnknownTransformer = errors.New("unknown transformer")
	// ErrInvalidTransformer means that a stage can't be registered or can't stand where it would in a chain.
	ErrInvalidTransformer = errors.New("invalid transformer")
)

// Registry holds stages by name. It is safe for concurrent use.
type Registry struct {
	mu     sync.RWMutex
	stages map[string]Transformer
}

// NewRegistry returns a registry with the compression stages zstd, zstd-seekable, gzip and s2, which refuse streams of more than
// maxDecompressedSize bytes both ways; 0 means compress.DefaultMaxSize.
func NewRegistry(maxDecompressedSize int64) (*Registry, error) {
	return newRegistry(maxDecompressedSize, 0)
}

func newRegistry(maxDecompressedSize int64, parallelism int) (*Registry, error) {
	r := &Registry{stages: make(map[string]Transformer)}
	for _, format := range compress.Formats() {
		stage, err := compress.New(format, maxDecompressedSize)
		if err != nil {
			return nil, err
		}
		stage.Parallelism = parallelism
		if err := r.Register(compression{stage}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

type compression struct{ *compress.Transformer }

func (compression) Type() TransformerType { return TransformerCompression }

// Register adds a stage. The error holds ErrInvalidTransformer: its name is taken or has other characters than names may,
// it is a second encryption stage, or it would stand behind encryption, where the object itself could not name it.
func (r *Registry) Register(t Transformer) error {
	name := t.Name()
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return fmt.Errorf("%w: name %q; names have lower-case letters, digits, '.', '_' and '-'", ErrInvalidTransformer, name)
	}
	if t.Type() != TransformerEncryption && t.Priority() >= CryptoTransformerPriority {
		return fmt.Errorf("%w: %s has priority %d; the chain is recorded inside the encryption of priority %d, which must come last", ErrInvalidTransformer, name, t.Priority(), CryptoTransformerPriority)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stages[name] != nil {
		return fmt.Errorf("%w: %s is registered already", ErrInvalidTransformer, name)
	}
	if t.Type() == TransformerEncryption && r.encryption() != nil {
		return fmt.Errorf("%w: %s is a second encryption stage", ErrInvalidTransformer, name)
	}
	r.stages[name] = t
	return nil
}

// encryption returns the encryption stage, or nil. The lock is held.
func (r *Registry) encryption() Transformer {
	for _, t := range r.stages {
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
	return nil, fmt.Errorf("%w: no encryption stage is registered", ErrUnknownTransformer)
}

// Get returns the stage of that name. The error holds ErrUnknownTransformer.
func (r *Registry) Get(name string) (Transformer, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.stages[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %.100q; registered are %s", ErrUnknownTransformer, name, strings.Join(slices.Sorted(maps.Keys(r.stages)), ", "))
}

// Names returns the names of all stages, sorted.
func (r *Registry) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.stages))
}

// NewChain returns the chain of the named stages, sorted by priority. The error holds ErrUnknownTransformer, or
// ErrInvalidTransformer for a name that comes twice.
func (r *Registry) NewChain(names ...string) (*Chain, error) {
	c := &Chain{}
	for _, name := range names {
		t, err := r.Get(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(c.Names(), name) {
			return nil, fmt.Errorf("%w: %s comes twice in a chain", ErrInvalidTransformer, name)
		}
		c.stages = append(c.stages, t)
	}
	slices.SortStableFunc(c.stages, func(a, b Transformer) int { return cmp.Compare(a.Priority(), b.Priority()) })
	return c, nil
}

// Reverse returns the original of a stored object. It needs nothing but the object: the encryption stage verifies and
// decrypts it, and the chain of further stages is rebuilt from its encryption context, which must have each pair of
// required. The error is the encryption stage's, or holds ErrUnknownTransformer.
func (r *Registry) Reverse(ctx context.Context, input io.Reader, required map[string]string) (io.Reader, error) {
	encryption, err := r.registeredEncryption()
	if err != nil {
		return nil, err
	}
	plain, err := encryption.Reverse(ctx, input, EncryptionContext(required))
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(plain, encryption)
	if err != nil {
		return nil, err
	}
	return chain.Reverse(ctx, plain)
}

// recorded returns the chain of stages below encryption, as the object names it in its encryption context.
func (r *Registry) recorded(decrypted any, encryption Transformer) (*Chain, error) {
	d, ok := decrypted.(interface{ EncryptionContext() map[string]string })
	if !ok {
		return nil, fmt.Errorf("%w: %s gives a reader that has no EncryptionContext method", ErrInvalidTransformer, encryption.Name())
	}
	chain := &Chain{}
	recorded := d.EncryptionContext()[ChainKey]
	if recorded == "" {
		return chain, nil
	}
	for name := range strings.SplitSeq(recorded, ",") {
		t, err := r.Get(name)
		if err != nil {
			return nil, fmt.Errorf("the object was written with a stage that is not registered here: %w", err)
		}
		if t.Type() == TransformerEncryption {
			return nil, fmt.Errorf("%w: the object names %s below its encryption", ErrInvalidTransformer, name)
		}
		chain.stages = append(chain.stages, t) // in the recorded order, whatever the priorities are now
	}
	return chain, nil
}

// Chain is a sequence of stages. It is safe for concurrent use.
type Chain struct {
	stages []Transformer
}

// Names returns the stages' names in the order in which they are applied.
func (c *Chain) Names() []string {
	names := make([]string, len(c.stages))
	for i, t := range c.stages {
		names[i] = t.Name()
	}
	return names
}

// Transform applies every stage to input. An encryption stage receives the encryption context and the names of the stages
// before it.
func (c *Chain) Transform(ctx context.Context, input io.Reader, encryptionContext map[string]string) (io.Reader, error) {
	if _, taken := encryptionContext[ChainKey]; taken {
		return nil, fmt.Errorf("%w: the encryption context key %q is the chain's own", ErrInvalidOptions, ChainKey)
	}
	for i, t := range c.stages {
		var options any
		if t.Type() == TransformerEncryption {
			full := EncryptionContext{}
			maps.Copy(full, encryptionContext)
			if i > 0 {
				full[ChainKey] = strings.Join(c.Names()[:i], ",")
			}
			options = full
		}
		output, err := t.Transform(ctx, input, options)
		if err != nil {
			return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
		}
		input = output
	}
	return input, nil
}

// Reverse applies every stage's reverse to input, last stage first.
func (c *Chain) Reverse(ctx context.Context, input io.Reader) (io.Reader, error) {
	for _, t := range slices.Backward(c.stages) {
		output, err := t.Reverse(ctx, input, nil)
		if err != nil {
			return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
		}
		input = output
	}
	return input, nil
}

// Open implements SeekableTransformer.
func (c compression) Open(_ context.Context, stored SizedReaderAt, _ any) (SizedReaderAt, error) {
	if c.Name() != compress.ZstdSeekable {
		return nil, fmt.Errorf("%w: the object was compressed by %s, which can only be read from its beginning; %s has random access", ErrNotSeekable, c.Name(), compress.ZstdSeekable)
	}
	r, err := compress.OpenSeekable(stored, stored.Size(), c.MaxSize())
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Open returns random access to the original of a stored object, with one call of the key service. The rest is Reverse's; the
// error also holds ErrNotSeekable.
func (r *Registry) Open(ctx context.Context, stored SizedReaderAt, required map[string]string) (SizedReaderAt, error) {
	encryption, err := r.registeredEncryption()
	if err != nil {
		return nil, err
	}
	original, err := openStage(ctx, encryption, stored, EncryptionContext(required))
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(original, encryption)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Backward(chain.stages) {
		if original, err = openStage(ctx, t, original, nil); err != nil {
			return nil, err
		}
	}
	return original, nil
}

func openStage(ctx context.Context, t Transformer, stored SizedReaderAt, options any) (SizedReaderAt, error) {
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
