package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/compress"
)

var (
	// ErrUnknownTransformer means that a transformer is not registered; the error names it.
	ErrUnknownTransformer = errors.New("unknown transformer")
	// ErrInvalidTransformer means that a transformer can't be registered, or can't have its place
	// in a chain.
	ErrInvalidTransformer = errors.New("invalid transformer")
)

// registry holds a host's transformers by name. It does not change once the host is made.
type registry struct {
	encryption   *cryptoTransformer
	transformers map[string]Transformer // with the encryption
}

// newRegistry returns a registry with the encryption and the transformers of all formats of package
// compress. Zero limits mean the defaults of that package.
func newRegistry(encryption *cryptoTransformer, maxSize int64, maxWindow, parallelism int) (*registry, error) {
	r := &registry{encryption, map[string]Transformer{encryption.Name(): encryption}}
	for _, format := range compress.Formats() {
		t, err := compress.New(format, maxSize)
		if err != nil {
			return nil, err
		}
		t.MaxWindow, t.Parallelism = maxWindow, parallelism
		if err := r.register(compression{t}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

type compression struct{ *compress.Transformer }

func (compression) Type() TransformerType { return TransformerCompression }

func (c compression) Open(_ context.Context, stored *io.SectionReader, _ any) (*io.SectionReader, error) {
	if c.Name() != compress.ZstdSeekable {
		return nil, fmt.Errorf("%w: the object was compressed by %s, which can only be read from its beginning; %s has random access", ErrNotSeekable, c.Name(), compress.ZstdSeekable)
	}
	return c.OpenSeekable(stored, stored.Size())
}

// register adds a transformer. The error holds ErrInvalidTransformer if the name is in use or has
// characters that names may not have. It also does if t is a second encryption transformer, or if t
// would come after encryption, where the object could not name it.
func (r *registry) register(t Transformer) error {
	name := t.Name()
	switch {
	case !validName(name):
		return fmt.Errorf("%w: name %q; names have lower-case letters, digits, '.', '_' and '-'", ErrInvalidTransformer, name)
	case t.Type() != transformerEncryption && t.Priority() >= cryptoPriority:
		return fmt.Errorf("%w: %s has priority %d; the chain is recorded inside the encryption of priority %d, which must come last", ErrInvalidTransformer, name, t.Priority(), cryptoPriority)
	case r.transformers[name] != nil:
		return fmt.Errorf("%w: %s is registered already", ErrInvalidTransformer, name)
	case t.Type() == transformerEncryption:
		return fmt.Errorf("%w: %s is a second encryption transformer", ErrInvalidTransformer, name)
	}
	r.transformers[name] = t
	return nil
}

func validName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// get returns the transformer of a name. The error holds ErrUnknownTransformer.
func (r *registry) get(name string) (Transformer, error) {
	if t := r.transformers[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %.100q; registered are %s", ErrUnknownTransformer, name, strings.Join(slices.Sorted(maps.Keys(r.transformers)), ", "))
}

// reverse returns the original of a stored object. It needs nothing but the object: the encryption
// context names the transformers that were applied before encryption. It must also have each of the
// stated pairs.
func (r *registry) reverse(ctx context.Context, input io.Reader, stated map[string]string) (io.Reader, error) {
	plain, err := r.encryption.decrypter.NewReader(ctx, input, stated)
	if err != nil {
		return nil, err
	}
	chain, err := r.recorded(plain.EncryptionContext())
	if err != nil {
		return nil, err
	}
	return chain.reverse(ctx, plain)
}

// open gives random access to the original of a stored object, with one call of the key service.
// The rest is as in reverse.
func (r *registry) open(ctx context.Context, stored Object, stated map[string]string) (*io.SectionReader, error) {
	plain, err := r.encryption.open(ctx, stored, stored.Size(), stated)
	if err != nil {
		return nil, fmt.Errorf("transformer %s: %w", r.encryption.Name(), err)
	}
	chain, err := r.recorded(plain.EncryptionContext())
	if err != nil {
		return nil, err
	}
	return chain.open(ctx, plain.SectionReader)
}
