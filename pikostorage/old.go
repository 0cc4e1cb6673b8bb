package pikostorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms"
)

// AlsoDecrypt returns a crypto provider that encrypts under keys, and that also decrypts what the
// old providers encrypted. Piko's crypto service decrypts strings with its default provider alone.
// So an application that changes its provider gives this one to Piko and to EncryptAll:
//
//	kms = pikostorage.AlsoDecrypt(kms, local)
//
// An old provider is asked about what the providers before it refuse. It is not asked while one of
// those is unavailable, or once the context has ended.
func AlsoDecrypt(keys crypto.EncryptionProvider, old ...crypto.EncryptionProvider) crypto.EncryptionProvider {
	return &succession{keys, old}
}

type succession struct {
	crypto.EncryptionProvider
	old []crypto.EncryptionProvider
}

// oldKeys returns keys without its old providers, and options by which a host reads their objects.
func oldKeys(keys crypto.EncryptionProvider) (crypto.EncryptionProvider, []pikokms.Option, error) {
	s, ok := keys.(*succession)
	if !ok {
		return keys, nil, nil
	}
	var options []pikokms.Option
	for i, o := range s.old {
		p, err := Keys(o)
		if err != nil {
			return nil, nil, err
		}
		options = append(options, pikokms.WithCryptoProvider(fmt.Sprintf("old-%d", i+1), p))
	}
	return s.EncryptionProvider, options, nil
}

// decrypt calls try for each provider, until one succeeds.
func (s *succession) decrypt(ctx context.Context, try func(crypto.EncryptionProvider) error) error {
	var failures []error
	for _, p := range append([]crypto.EncryptionProvider{s.EncryptionProvider}, s.old...) {
		err := try(p)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, crypto.ErrProviderUnavailable) {
			break
		}
	}
	return errors.Join(failures...)
}

func (s *succession) Decrypt(ctx context.Context, request *crypto.DecryptRequest) (response *crypto.DecryptResponse, err error) {
	err = s.decrypt(ctx, func(p crypto.EncryptionProvider) (err error) {
		asked := *request
		response, err = p.Decrypt(ctx, &asked)
		return err
	})
	return response, err
}

func (s *succession) DecryptStream(ctx context.Context, input io.Reader) (plain io.ReadCloser, err error) {
	recorded := &recorder{Reader: input}
	err = s.decrypt(ctx, func(p crypto.EncryptionProvider) (err error) {
		start := bytes.NewReader(bytes.Clone(recorded.start.Bytes()))
		plain, err = p.DecryptStream(ctx, io.MultiReader(start, recorded))
		return err
	})
	recorded.stop()
	return plain, err
}

// Close closes those of the providers that can be closed.
func (s *succession) Close() error {
	var failures []error
	for _, p := range append([]crypto.EncryptionProvider{s.EncryptionProvider}, s.old...) {
		if c, ok := p.(io.Closer); ok {
			failures = append(failures, c.Close())
		}
	}
	return errors.Join(failures...)
}
