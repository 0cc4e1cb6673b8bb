package vault

import (
	"context"
	"encoding/base64"
	"fmt"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Encrypt implements provider.EncryptionProvider with one call of the server. The result is the
// base64 text of an AWS Encryption SDK message.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail(ctx, "Encrypt", provider.ErrEmptyPlaintext)
	}
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, p.fail(ctx, "Encrypt", err)
	}
	text, err := message.EncryptText(ctx, p, request)
	if err != nil {
		return nil, p.fail(ctx, "Encrypt", err)
	}
	return &provider.EncryptResponse{Ciphertext: text, KeyID: p.id, Provider: p.Type()}, nil
}

// Decrypt implements provider.EncryptionProvider with one call of the server. The request's context
// must equal that of Encrypt.
func (p *Provider) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if request.Ciphertext == "" {
		return nil, p.fail(ctx, "Decrypt", provider.ErrEmptyCiphertext)
	}
	if err := p.checkKeyID(request.KeyID); err != nil {
		return nil, p.fail(ctx, "Decrypt", err)
	}
	ciphertext, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	plaintext, err := message.DecryptText(ctx, p, ciphertext, request)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", err)
	}
	return &provider.DecryptResponse{Plaintext: plaintext}, nil
}
