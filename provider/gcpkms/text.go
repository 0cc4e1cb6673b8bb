package gcpkms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// MaxDirectSize is the largest plaintext in bytes that Cloud KMS itself encrypts here. Cloud KMS
// takes 64 KiB, or 8 KiB with the encryption context under a key of an HSM (Cloud KMS REST
// reference, cryptoKeys.encrypt).
const MaxDirectSize = 4096

// Encrypt implements provider.EncryptionProvider. Cloud KMS itself encrypts up to MaxDirectSize
// bytes, and the result is the base64 text of its ciphertext. A longer plaintext is encrypted under
// a data key, and the result is the base64 text of an AWS Encryption SDK message. Encrypt calls
// Cloud KMS once.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail(ctx, "Encrypt", p.own, provider.ErrEmptyPlaintext)
	}
	if err := errors.Join(header.CheckContext(request.Context), provider.CheckStated(request.Context)); err != nil {
		return nil, p.fail(ctx, "Encrypt", p.own, err)
	}
	under, err := p.named(request.KeyID)
	if err != nil {
		return nil, p.fail(ctx, "Encrypt", p.own, err)
	}
	var text string
	if len(request.Plaintext) > MaxDirectSize {
		text, err = message.EncryptText(ctx, requested{p, under}, request)
	} else {
		text, err = p.encryptText(ctx, under, request)
	}
	if err != nil {
		return nil, p.fail(ctx, "Encrypt", under, err)
	}
	return &provider.EncryptResponse{Ciphertext: text, KeyID: under, Provider: p.Type()}, nil
}

// EncryptsDirectly implements provider.DirectEncrypter. It is true.
func (p *Provider) EncryptsDirectly() bool { return true }

func (p *Provider) encryptText(ctx context.Context, under string, request *provider.EncryptRequest) (string, error) {
	plaintext := []byte(request.Plaintext)
	defer clear(plaintext)
	ciphertext, err := p.encrypt(ctx, under, plaintext, request.Context)
	return base64.StdEncoding.EncodeToString(ciphertext), err
}

// requested is a Provider that makes the data key of one message under the key that a request
// names.
type requested struct {
	*Provider
	under string
}

func (r requested) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	named := *request
	named.KeyID = r.under
	return r.Provider.GenerateDataKey(ctx, &named)
}

// Decrypt implements provider.EncryptionProvider. The request's context must equal that of Encrypt.
// It calls Cloud KMS once if the request names the key, or if the provider trusts only its own. A
// value that Cloud KMS itself encrypted does not name its key. If the request does not either,
// Decrypt tries the trusted keys one after the other, 16 at most.
func (p *Provider) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if request.Ciphertext == "" {
		return nil, p.fail(ctx, "Decrypt", p.own, provider.ErrEmptyCiphertext)
	}
	if err := provider.CheckStated(request.Context); err != nil {
		return nil, p.fail(ctx, "Decrypt", p.own, fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	ciphertext, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", p.own, fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	candidates, err := p.candidates(request.KeyID)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", p.own, err)
	}
	if header.Sniff(ciphertext) {
		plaintext, err := message.DecryptText(ctx, p, ciphertext, request)
		if err != nil {
			return nil, p.fail(ctx, "Decrypt", candidates[0], err)
		}
		return &provider.DecryptResponse{Plaintext: plaintext}, nil
	}
	plaintext, err := p.tryAll(ctx, candidates, ciphertext, request.Context)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", candidates[0], err)
	}
	defer clear(plaintext)
	return &provider.DecryptResponse{Plaintext: string(plaintext)}, nil
}

// tryAll decrypts under the first of the keys that can. The caller clears the result.
func (p *Provider) tryAll(ctx context.Context, candidates []string, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	var failures []error
	for _, key := range candidates {
		answer, err := p.decrypt(ctx, key, ciphertext, encryptionContext)
		if err == nil {
			return answer.Plaintext, nil
		}
		if len(candidates) > 1 {
			err = fmt.Errorf("key %s: %w", key, err)
		}
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, provider.ErrProviderUnavailable) {
			break // what is no answer says nothing of the key
		}
	}
	return nil, errors.Join(failures...)
}
