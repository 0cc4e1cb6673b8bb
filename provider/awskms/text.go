package awskms

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// MaxDirectSize is the largest plaintext in bytes that KMS itself encrypts (KMS API Reference,
// Encrypt, symmetric keys).
const MaxDirectSize = 4096

// Encrypt implements provider.EncryptionProvider. KMS itself encrypts up to MaxDirectSize bytes,
// and the result is the base64 text of its ciphertext. A longer plaintext is encrypted under a data
// key, and the result is the base64 text of an AWS Encryption SDK message. Under an RSA key this is
// so for every size. Encrypt calls KMS once, or not at all under an RSA key.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail(ctx, "Encrypt", provider.ErrEmptyPlaintext)
	}
	if err := errors.Join(header.CheckContext(request.Context), provider.CheckStated(request.Context)); err != nil {
		return nil, p.fail(ctx, "Encrypt", err)
	}
	under, err := p.encryptionKey(ctx, request.KeyID)
	if err != nil {
		return nil, p.fail(ctx, "Encrypt", err)
	}
	encrypt := p.encryptText
	if under.isRSA || len(request.Plaintext) > MaxDirectSize {
		encrypt = p.encryptMessage
	}
	text, keyARN, err := encrypt(ctx, under.arn, request)
	if err != nil {
		return nil, fail(ctx, "Encrypt", under.arn, err)
	}
	return &provider.EncryptResponse{Ciphertext: text, KeyID: keyARN, Provider: p.Type()}, nil
}

func (p *Provider) encryptText(ctx context.Context, asked string, request *provider.EncryptRequest) (text, keyARN string, err error) {
	blob, keyARN, err := p.encrypt(ctx, asked, []byte(request.Plaintext), request.Context)
	return base64.StdEncoding.EncodeToString(blob), keyARN, err
}

func (p *Provider) encryptMessage(ctx context.Context, asked string, request *provider.EncryptRequest) (text, keyARN string, err error) {
	under := &requested{Provider: p, keyID: asked}
	text, err = message.EncryptText(ctx, under, request)
	return text, under.arn, err
}

// Decrypt implements provider.EncryptionProvider. The request's context must equal that of Encrypt.
// It calls KMS once if the request names the key, or if the provider trusts only its own. A value
// that KMS itself encrypted does not name its key. If the request does not either, Decrypt tries
// the trusted keys one after the other, 16 at most.
func (p *Provider) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if request.Ciphertext == "" {
		return nil, p.fail(ctx, "Decrypt", provider.ErrEmptyCiphertext)
	}
	if err := provider.CheckStated(request.Context); err != nil {
		return nil, p.fail(ctx, "Decrypt", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	ciphertext, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	if header.Sniff(ciphertext) {
		plaintext, err := p.decryptMessage(ctx, ciphertext, request)
		if err != nil {
			return nil, p.fail(ctx, "Decrypt", err)
		}
		return &provider.DecryptResponse{Plaintext: plaintext}, nil
	}
	plaintext, err := p.decryptTrusted(ctx, request.KeyID, ciphertext, request.Context)
	if err != nil {
		return nil, fail(ctx, "Decrypt", cmp.Or(request.KeyID, p.KeyID()), err)
	}
	defer clear(plaintext)
	return &provider.DecryptResponse{Plaintext: string(plaintext)}, nil
}

func (p *Provider) decryptMessage(ctx context.Context, ciphertext []byte, request *provider.DecryptRequest) (string, error) {
	if request.KeyID != "" {
		if _, err := p.candidates(ctx, request.KeyID); err != nil {
			return "", err
		}
	}
	return message.DecryptText(ctx, p, ciphertext, request)
}

// EncryptsDirectly implements provider.DirectEncrypter. It is true unless the key is known to be of
// RSA.
func (p *Provider) EncryptsDirectly() bool { return !p.hasRSAKey() }

// CanReEncrypt implements provider.ReEncrypter. KMS moves values between symmetric keys of one
// Region.
func (p *Provider) CanReEncrypt(from provider.EncryptionProvider) bool {
	source, ok := from.(*Provider)
	return ok && source.Region() == p.Region() && !source.hasRSAKey() && !p.hasRSAKey()
}

func (p *Provider) hasRSAKey() bool {
	own, _ := p.own.Peek()
	return own.isRSA
}

// ReEncrypt implements provider.ReEncrypter with one call of KMS ReEncrypt. It moves values of up
// to MaxDirectSize bytes, which KMS itself encrypted.
func (p *Provider) ReEncrypt(ctx context.Context, from provider.EncryptionProvider, request *provider.DecryptRequest) (*provider.EncryptResponse, error) {
	if !p.CanReEncrypt(from) {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: KMS moves values between symmetric keys in Region %s only", provider.ErrInvalidProvider, p.Region()))
	}
	if err := provider.CheckStated(request.Context); err != nil {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	blob, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	response, err := p.reEncrypt(ctx, from.(*Provider), blob, request.Context)
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", err)
	}
	return response, nil
}

func (p *Provider) reEncrypt(ctx context.Context, from *Provider, blob []byte, encryptionContext map[string]string) (*provider.EncryptResponse, error) {
	// A key that is configured by its ARN needs no check.
	if err := from.learn(ctx); err != nil {
		return nil, err
	}
	if err := p.learn(ctx); err != nil {
		return nil, err
	}
	source, destination := from.KeyID(), p.KeyID()
	out, err := p.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		SourceKeyId: aws.String(source), SourceEncryptionContext: encryptionContext, CiphertextBlob: blob,
		DestinationKeyId: aws.String(destination), DestinationEncryptionContext: encryptionContext, GrantTokens: p.grantTokens,
	})
	if err != nil {
		return nil, err
	}
	if got := aws.ToString(out.SourceKeyId); got != source {
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, source, got)
	}
	if err := p.answered(destination, aws.ToString(out.KeyId), out.CiphertextBlob); err != nil {
		return nil, err
	}
	return &provider.EncryptResponse{Ciphertext: base64.StdEncoding.EncodeToString(out.CiphertextBlob), KeyID: destination, Provider: p.Type()}, nil
}
