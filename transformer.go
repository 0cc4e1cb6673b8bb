package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// TransformerType is the kind of a transformer.
type TransformerType string

// The kinds of transformers, which are Piko's.
const (
	TransformerCompression TransformerType = "compression"
	transformerEncryption  TransformerType = "encryption" // pikokms has the only one
	TransformerCustom      TransformerType = "custom"
)

// Transformer is a step of the storage pipeline, with the shape of Piko's port. It is safe for
// concurrent use. Its readers leave no goroutine behind.
type Transformer interface {
	// Name returns the name that is stored with objects. It consists of lower-case letters, digits,
	// '.', '_' and '-'.
	Name() string

	// Type returns the transformer's kind.
	Type() TransformerType

	// Priority returns the transformer's place. Transformers with a lower priority are applied
	// first, and reversed last. Compression has 100, encryption 250.
	Priority() int

	// Transform returns the stored form of input. If input fails, reading returns its error.
	Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error)

	// Reverse returns the original of a stored form. It must read input to its end before it
	// returns io.EOF.
	Reverse(ctx context.Context, input io.Reader, options any) (io.Reader, error)
}

// The name of the encryption transformer, which is Piko's, and its place in a chain.
const (
	cryptoName     = "crypto-service"
	cryptoPriority = 250
)

// ErrNotObject means that a message does not state that it is a stored object. It may still be
// authentic, such as a string or a message of AWS's tools.
var ErrNotObject = errors.New("message is no stored object")

// acceptObject refuses a message that does not state that it is a stored object.
func acceptObject(h *header.Header) error {
	use, stated := h.EncryptionContext[provider.PairUse]
	switch {
	case use == provider.UseObject:
		return nil
	case stated:
		return fmt.Errorf("%w: %w: the pair %q of its encryption context is %.40q, not %q", ErrNotObject, provider.ErrContextMismatch, provider.PairUse, use, provider.UseObject)
	}
	return fmt.Errorf("%w: %w: its encryption context has no pair %q, so no host wrote it; AllowForeignMessages lets it be read", ErrNotObject, provider.ErrContextMismatch, provider.PairUse)
}

// acceptForeign also accepts a message that does not state its use.
func acceptForeign(h *header.Header) error {
	if _, stated := h.EncryptionContext[provider.PairUse]; !stated {
		return nil
	}
	return acceptObject(h)
}

// cryptoTransformer is the encryption transformer. The stored form is an AWS Encryption SDK
// message.
type cryptoTransformer struct {
	encrypter message.Encrypter
	decrypter message.Decrypter
}

func (t *cryptoTransformer) Name() string          { return cryptoName }
func (t *cryptoTransformer) Type() TransformerType { return transformerEncryption }
func (t *cryptoTransformer) Priority() int         { return cryptoPriority }

// Transform returns a *message.EncryptReader. The options are the map[string]string of the chain,
// to which it adds a pair.
func (t *cryptoTransformer) Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error) {
	pairs := options.(map[string]string)
	if _, taken := pairs[provider.PairUse]; taken {
		return nil, fmt.Errorf("%w: the encryption context key %q is the transformer's own", ErrInvalidOptions, provider.PairUse)
	}
	pairs[provider.PairUse] = provider.UseObject
	r, err := t.encrypter.NewReader(ctx, input, pairs)
	if err != nil {
		return nil, err // r would be an io.Reader that holds a nil pointer, and not nil
	}
	return r, nil
}

// Reverse returns a *message.DecryptReader.
func (t *cryptoTransformer) Reverse(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	r, err := t.decrypter.NewReader(ctx, input, nil)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// open gives random access to the plaintext of a message of size bytes.
func (t *cryptoTransformer) open(ctx context.Context, stored io.ReaderAt, size int64, stated map[string]string) (*message.DecryptReaderAt, error) {
	r, err := t.decrypter.Open(ctx, stored, size, stated)
	if errors.Is(err, header.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", ErrNotSeekable, err)
	}
	return r, err
}

// ErrInvalidOptions means that a transformer does not accept the options.
var ErrInvalidOptions = errors.New("invalid transformer options")

// SeekableTransformer is a transformer whose stored form can be read in ranges.
type SeekableTransformer interface {
	Transformer

	// Open gives random access to the original of a stored form. The error holds ErrNotSeekable if
	// this stored form has none.
	Open(ctx context.Context, stored *io.SectionReader, options any) (*io.SectionReader, error)
}
