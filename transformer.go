// Package pikokms encrypts stored objects under a key management service: a storage pipeline whose encryption stage writes
// AWS Encryption SDK messages, and the wiring that puts it in front of a storage so that an application need not know of it.
//
//	upload    host ── chain, by priority: compression 100, encryption 250 ── storage
//	download  host ── the same chain, read from the object itself, reversed ── storage
//
// New wires a host. Packages below: message (streams without storage), provider with awskms and local (keys), compress,
// header and frame (the format).
package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// TransformerType is the kind of a stage.
type TransformerType string

// The kinds of stages, which are Piko's.
const (
	TransformerCompression TransformerType = "compression"
	TransformerEncryption  TransformerType = "encryption"
	TransformerCustom      TransformerType = "custom"
)

// Transformer is a stage of the storage pipeline, with the shape of Piko's port. It is safe for concurrent use, and its
// readers start no goroutine that outlives them.
type Transformer interface {
	Name() string          // lower-case letters, digits, '.', '_' and '-'; it is stored with objects
	Type() TransformerType // its kind
	Priority() int         // lower runs first on the way in: 100 for compression, 250 for encryption

	// Transform returns input's stored form. Reading it gives input's own error if input fails, never a short success.
	Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error)

	// Reverse returns the original of a stored form. It must read input to its end before it returns io.EOF.
	Reverse(ctx context.Context, input io.Reader, options any) (io.Reader, error)
}

const (
	// CryptoTransformerName is the name of the encryption stage.
	CryptoTransformerName = "crypto-service"
	// CryptoTransformerPriority is the place of the encryption stage in a chain.
	CryptoTransformerPriority = 250
)

// EncryptionContext is the options argument of CryptoTransformer: on Transform the pairs to store and authenticate, on
// Reverse the pairs that a message must have.
type EncryptionContext map[string]string

// CryptoTransformer is the encryption stage: what it stores is an AWS Encryption SDK message.
type CryptoTransformer struct {
	encrypter message.Encrypter
	decrypter message.Decrypter
}

// NewCryptoTransformer returns an encryption stage that writes with e and reads with d.
func NewCryptoTransformer(e message.Encrypter, d message.Decrypter) *CryptoTransformer {
	return &CryptoTransformer{encrypter: e, decrypter: d}
}

// Name implements Transformer.
func (t *CryptoTransformer) Name() string { return CryptoTransformerName }

// Type implements Transformer.
func (t *CryptoTransformer) Type() TransformerType { return TransformerEncryption }

// Priority implements Transformer.
func (t *CryptoTransformer) Priority() int { return CryptoTransformerPriority }

// Transform implements Transformer. The options are nil or an EncryptionContext. The result is a *message.EncryptReader.
// The key service is called once, here.
func (t *CryptoTransformer) Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error) {
	encryptionContext, err := asEncryptionContext(options)
	if err != nil {
		return nil, err
	}
	r, err := t.encrypter.NewReader(ctx, input, encryptionContext)
	if err != nil {
		return nil, err // not r: a nil pointer would make an io.Reader that is not nil
	}
	return r, nil
}

// Reverse implements Transformer. The options are nil or an EncryptionContext. The result is a *message.DecryptReader.
// The key service is called once, here. Errors are those of message.Decrypter.
func (t *CryptoTransformer) Reverse(ctx context.Context, input io.Reader, options any) (io.Reader, error) {
	required, err := asEncryptionContext(options)
	if err != nil {
		return nil, err
	}
	r, err := t.decrypter.NewReader(ctx, input, required)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func asEncryptionContext(options any) (map[string]string, error) {
	switch o := options.(type) {
	case nil:
		return nil, nil
	case EncryptionContext:
		return maps.Clone(o), nil
	}
	return nil, fmt.Errorf("%w: options of %T; the encryption stage takes nil or an EncryptionContext", ErrInvalidOptions, options)
}

// ErrInvalidOptions means options that a stage does not know.
var ErrInvalidOptions = errors.New("invalid transformer options")

// SeekableTransformer is a stage whose stored form can be read in parts.
type SeekableTransformer interface {
	Transformer

	// Open returns random access to the original of a stored form. The error holds ErrNotSeekable for a form that has none.
	Open(ctx context.Context, stored SizedReaderAt, options any) (SizedReaderAt, error)
}

// Open implements SeekableTransformer. The options are Reverse's; the result is a *message.DecryptReaderAt.
func (t *CryptoTransformer) Open(ctx context.Context, stored SizedReaderAt, options any) (SizedReaderAt, error) {
	required, err := asEncryptionContext(options)
	if err != nil {
		return nil, err
	}
	r, err := t.decrypter.Open(ctx, stored, stored.Size(), required)
	if errors.Is(err, header.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", ErrNotSeekable, err)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}
