package pikokms

import (
	"context"
	"fmt"
	"io"
	"maps"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// StreamTransformer is a transformer with the shape of Piko's StreamTransformerPort, for an
// application that names transformers for each upload. T is Piko's storage.TransformerType, which
// is not imported here. To encrypt everything, use package pikostorage instead.
//
// Piko registers a transformer of its own as "crypto-service", so this one needs another name:
//
//	transformer := pikokms.StreamTransformer[storage.TransformerType]{
//		Transformer: pikokms.NewCryptoTransformer(encrypter, decrypter),
//		As:          "pikokms",
//	}
//	err := service.RegisterTransformer(ctx, transformer)
type StreamTransformer[T ~string] struct {
	Transformer
	As string // the name to register under; empty means the transformer's own
}

// Name returns the name to register under.
func (s StreamTransformer[T]) Name() string {
	if s.As != "" {
		return s.As
	}
	return s.Transformer.Name()
}

// Type returns the transformer's kind.
func (s StreamTransformer[T]) Type() T { return T(s.Transformer.Type()) }

// EncryptObjectWith is EncryptObject with further pairs that the object stores in its encryption
// context, for what a storage records about its objects. The pairs are authenticated, and seen by
// the key service. The error holds ErrInvalidOptions for a pair whose key begins with "piko-",
// since only the host states those.
func (h *Host) EncryptObjectWith(ctx context.Context, key string, content io.Reader, stated map[string]string) (*message.EncryptReader, error) {
	if err := provider.CheckStated(stated); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	pairs := make(map[string]string)
	maps.Copy(pairs, stated)
	maps.Copy(pairs, h.bound(key))
	stored, err := h.chain.Transform(ctx, content, pairs)
	if err != nil {
		return nil, err
	}
	return stored.(*message.EncryptReader), nil // the encryption transformer of New comes last
}

// AllowsPlaintext reports whether objects that are not encrypted are read, as with AllowPlaintext.
func (h *Host) AllowsPlaintext() bool { return h.allowPlaintext }
