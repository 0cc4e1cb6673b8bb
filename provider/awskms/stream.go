package awskms

import (
	"context"
	"io"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// EncryptStream implements provider.EncryptionProvider with one call of KMS.
func (p *Provider) EncryptStream(ctx context.Context, output io.Writer, request *provider.EncryptRequest) (io.WriteCloser, error) {
	w, err := (&message.Encrypter{Keyring: &requested{Provider: p, keyID: request.KeyID}}).NewWriter(ctx, output, request.Context)
	if err != nil {
		return nil, err // not w: a nil pointer would make an io.WriteCloser that is not nil
	}
	return w, nil
}

// DecryptStream implements provider.EncryptionProvider with one call of KMS. The result is a
// *message.DecryptReader.
func (p *Provider) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	r, err := (&message.Decrypter{Keyrings: []provider.Keyring{p}}).NewReader(ctx, input, nil)
	if err != nil {
		return nil, err
	}
	return r, nil
}
