package awskms

import (
	"cmp"
	"context"
	"encoding/base64"
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

// Encrypt implements provider.EncryptionProvider. Up to MaxDirectSize bytes are encrypted by KMS
// itself and the result is the base64 text of its ciphertext; more is encrypted under a data key to
// the text of an AWS Encryption SDK message, and so is everything under an RSA key. KMS is called
// once, or under an RSA key not at all.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail(ctx, "Encrypt", provider.ErrEmptyPlaintext)
	}
	if err := header.CheckContext(request.Context); err != nil {
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

// Decrypt implements provider.EncryptionProvider. The request's context must equal the one given to
// Encrypt. KMS is called once if the request names the key, or the provider trusts no other than
// its own. A value that KMS encrypted itself and whose key is not named is tried under the trusted
// keys one after the other, 16 at most.
func (p *Provider) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if request.Ciphertext == "" {
		return nil, p.fail(ctx, "Decrypt", provider.ErrEmptyCiphertext)
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

// ReEncrypt moves a value that KMS encrypted itself, as Encrypt does up to MaxDirectSize, from the
// key with the source's ARN to the provider's own, with one call of KMS ReEncrypt, which decrypts it
// within KMS. Both keys are symmetric and in one Region. The request's context is the value's and
// stays so.
func (p *Provider) ReEncrypt(ctx context.Context, sourceARN string, request *provider.DecryptRequest) (*provider.EncryptResponse, error) {
	blob, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	own, err := p.own.get(ctx, p.check)
	if err == nil && own.isRSA {
		err = fmt.Errorf("%w: KMS encrypts values itself under symmetric keys only", provider.ErrKeyUsage)
	}
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", err)
	}
	out, err := p.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		SourceKeyId: aws.String(sourceARN), SourceEncryptionContext: request.Context, CiphertextBlob: blob,
		DestinationKeyId: aws.String(own.arn), DestinationEncryptionContext: request.Context, GrantTokens: p.grantTokens,
	})
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", err)
	}
	if from := aws.ToString(out.SourceKeyId); from != sourceARN {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, sourceARN, from))
	}
	if err := p.answered(own.arn, aws.ToString(out.KeyId), out.CiphertextBlob); err != nil {
		return nil, p.fail(ctx, "ReEncrypt", err)
	}
	return &provider.EncryptResponse{Ciphertext: base64.StdEncoding.EncodeToString(out.CiphertextBlob), KeyID: own.arn, Provider: p.Type()}, nil
}
