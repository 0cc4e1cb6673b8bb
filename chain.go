package pikokms

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// PairTransformers is the name of the pair of the encryption context in which an object lists the
// transformers that were applied before its encryption: in that order, separated by commas. Without
// such transformers there is no such pair.
const PairTransformers = "piko-transformers"

// maxChain is the most transformers that may come before an object's encryption. At most one of
// them compresses, and none occurs twice. So an object can't make its reader take memory without
// bound.
const maxChain = 8

// chain is a sequence of transformers. It is safe for concurrent use.
type chain struct {
	transformers []Transformer
}

// newChain returns the chain of the named transformers, sorted by priority. The error holds
// ErrUnknownTransformer, or ErrInvalidTransformer for a name that occurs twice, a second
// compression, or more than maxChain transformers before the encryption.
func (r *registry) newChain(names ...string) (*chain, error) {
	c, err := r.chain(names)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(c.transformers, func(a, b Transformer) int { return cmp.Compare(a.Priority(), b.Priority()) })
	return c, nil
}

// chain returns the chain of the named transformers in this order. Writers and readers both use it,
// so every chain that can be written can be read.
func (r *registry) chain(names []string) (*chain, error) {
	c := new(chain)
	compression, below := "", 0
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%w: %.100q comes twice in a chain", ErrInvalidTransformer, name)
		}
		t, err := r.get(name)
		if err != nil {
			return nil, err
		}
		if t.Type() != transformerEncryption {
			below++
		}
		if below > maxChain {
			return nil, fmt.Errorf("%w: a chain of more than %d transformers", ErrInvalidTransformer, maxChain)
		}
		if t.Type() == TransformerCompression {
			if compression != "" {
				return nil, fmt.Errorf("%w: %s and %s in one chain, which has at most one compression", ErrInvalidTransformer, compression, name)
			}
			compression = name
		}
		c.transformers = append(c.transformers, t)
	}
	return c, nil
}

// recordedNames returns the names in an object's PairTransformers pair. It refuses more than a
// chain holds.
func recordedNames(recorded string) ([]string, error) {
	if recorded == "" {
		return nil, nil
	}
	names := strings.SplitN(recorded, ",", maxChain+1)
	if len(names) > maxChain {
		return nil, fmt.Errorf("%w: the object names more than %d transformers", ErrInvalidTransformer, maxChain)
	}
	for i, name := range names {
		if !validName(name) || slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%w: the object names %.100q, which is no name or comes twice", ErrInvalidTransformer, name)
		}
	}
	return names, nil
}

// recorded returns the chain that an object names in its encryption context.
func (r *registry) recorded(encryptionContext map[string]string) (*chain, error) {
	names, err := recordedNames(encryptionContext[PairTransformers])
	if err != nil {
		return nil, err
	}
	if slices.Contains(names, r.encryption.Name()) {
		return nil, fmt.Errorf("%w: the object names %s below its encryption", ErrInvalidTransformer, r.encryption.Name())
	}
	chain, err := r.chain(names) // in the recorded order, whatever the priorities are now
	if err != nil {
		return nil, fmt.Errorf("the object's transformers are not known here: %w", err)
	}
	return chain, nil
}

// names returns the transformers' names in the order in which they are applied.
func (c *chain) names() []string {
	names := make([]string, len(c.transformers))
	for i, t := range c.transformers {
		names[i] = t.Name()
	}
	return names
}

// transform applies every transformer to input. An encryption transformer receives the encryption
// context and the names of the transformers before it.
func (c *chain) transform(ctx context.Context, input io.Reader, encryptionContext map[string]string) (io.Reader, error) {
	if _, taken := encryptionContext[PairTransformers]; taken {
		return nil, fmt.Errorf("%w: the encryption context key %q is the chain's own", ErrInvalidOptions, PairTransformers)
	}
	for i, t := range c.transformers {
		var options any
		if t.Type() == transformerEncryption {
			full := make(map[string]string)
			maps.Copy(full, encryptionContext)
			if i > 0 {
				full[PairTransformers] = strings.Join(c.names()[:i], ",")
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

// reverse undoes the transformers, the last one first.
func (c *chain) reverse(ctx context.Context, input io.Reader) (io.Reader, error) {
	for _, t := range slices.Backward(c.transformers) {
		output, err := t.Reverse(ctx, input, nil)
		if err != nil {
			return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
		}
		input = output
	}
	return input, nil
}

// open gives random access to the original of a stored form, the last transformer first.
func (c *chain) open(ctx context.Context, stored *io.SectionReader) (*io.SectionReader, error) {
	for _, t := range slices.Backward(c.transformers) {
		seekable, ok := t.(SeekableTransformer)
		if !ok {
			return nil, fmt.Errorf("%w: transformer %s has none", ErrNotSeekable, t.Name())
		}
		original, err := seekable.Open(ctx, stored, nil)
		if err != nil {
			return nil, fmt.Errorf("transformer %s: %w", t.Name(), err)
		}
		stored = original
	}
	return stored, nil
}
