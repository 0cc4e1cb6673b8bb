package pikostorage

import (
	"context"
	"fmt"
	"io"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
)

// transformerPriority is the place of encryption in Piko's pipeline: after compression, which has
// 100.
const transformerPriority = 250

// NewTransformer returns a transformer that encrypts, for an application that names transformers
// for each upload. To encrypt everything, use New instead. The options are those of pikokms.New;
// WithStorage has no effect here. Since Piko's pipeline does not name the object, BindObjectName is
// refused with pikokms.ErrConfig.
//
// Piko registers a transformer of its own as "crypto-service", so this one needs another name:
//
//	transformer, err := pikostorage.NewTransformer("pikokms", pikokms.WithCryptoProvider("kms", p))
//	…
//	err = service.RegisterTransformer(ctx, transformer)
//
// The options of Transform and Reverse are nil or a map[string]string: Transform stores and
// authenticates these pairs, and Reverse refuses an object that does not have them. Both call the
// key service; reading their results does not. The errors are those of pikokms.Host's Put and Get,
// or hold pikokms.ErrInvalidOptions.
func NewTransformer(name string, options ...pikokms.Option) (storage.StreamTransformerPort, error) {
	host, err := pikokms.New(options...)
	if err != nil {
		return nil, err
	}
	if host.BindsNames() {
		return nil, fmt.Errorf("%w: Piko's pipeline does not name the object that it transforms, so BindObjectName can't bind it", pikokms.ErrConfig)
	}
	return &transformer{name, host}, nil
}

// transformer encrypts and decrypts for Piko's pipeline.
type transformer struct {
	name string
	host *pikokms.Host
}

func (t *transformer) Name() string                { return t.name }
func (*transformer) Type() storage.TransformerType { return storage.TransformerEncryption }
func (*transformer) Priority() int                 { return transformerPriority }

func (t *transformer) Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error) {
	pairs, err := asPairs(options)
	if err != nil {
		return nil, err
	}
	sealed, err := t.host.EncryptObject(ctx, "", input, pairs)
	if err != nil {
		return nil, err // sealed would be an io.Reader that holds a nil pointer, and not nil
	}
	return sealed, nil
}

func (t *transformer) Reverse(ctx context.Context, input io.Reader, options any) (io.Reader, error) {
	pairs, err := asPairs(options)
	if err != nil {
		return nil, err
	}
	content, _, err := t.host.DecryptObject(ctx, "", input, -1, pairs)
	return content, err
}

func asPairs(options any) (map[string]string, error) {
	switch o := options.(type) {
	case nil:
		return nil, nil
	case map[string]string:
		return o, nil
	}
	return nil, fmt.Errorf("%w: options of %T; the encryption transformer takes nil or a map[string]string", pikokms.ErrInvalidOptions, options)
}
