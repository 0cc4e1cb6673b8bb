package awskms

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/provider"
)

// maxDirectSize is the largest plaintext in bytes that KMS itself encrypts (KMS API Reference,
// Encrypt, symmetric keys).
const maxDirectSize = 4096

// EncryptDirectly encrypts a value of up to 4,096 bytes with one call of KMS. Under an
// RSA or EC key it encrypts none.
func (p *keyring) EncryptDirectly(ctx context.Context, value []byte, encryptionContext map[string]string) (ciphertext []byte, keyARN string, err error) {
	under, err := p.encryptionKey(ctx)
	if err != nil {
		return nil, "", p.fail(ctx, "Encrypt", err)
	}
	if under.kind != symmetricKind || len(value) > maxDirectSize {
		return nil, "", nil
	}
	ciphertext, keyARN, err = p.encrypt(ctx, under.arn, value, encryptionContext)
	if err != nil {
		return nil, "", fail(ctx, "Encrypt", under.arn, err)
	}
	return ciphertext, keyARN, nil
}

// DecryptDirectly calls KMS once under a key of Under, or if the provider trusts only its own key.
// A value does not name its key, so otherwise DecryptDirectly tries the trusted keys one after the
// other, 16 at most.
func (p *keyring) DecryptDirectly(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	value, err := p.decryptTrusted(ctx, ciphertext, encryptionContext)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", err)
	}
	return value, nil
}

// EncryptsDirectly is true unless the key is known to be of RSA or EC.
func (p *keyring) EncryptsDirectly() bool { return !p.hasAsymmetricKey() }

// CanReEncrypt is true for two symmetric keys of one Region.
func (p *keyring) CanReEncrypt(from provider.EncryptionProvider) bool {
	source, ok := from.(*keyring)
	return ok && source.region() == p.region() && !source.hasAsymmetricKey() && !p.hasAsymmetricKey()
}

func (p *keyring) hasAsymmetricKey() bool {
	own, _ := p.own.Peek()
	return own.kind != symmetricKind
}

// ReEncrypt makes one call of KMS ReEncrypt.
func (p *keyring) ReEncrypt(ctx context.Context, from provider.EncryptionProvider, ciphertext []byte, encryptionContext map[string]string) (moved []byte, keyARN string, err error) {
	if !p.CanReEncrypt(from) {
		return nil, "", p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: KMS moves values between symmetric keys in Region %s only", provider.ErrInvalidProvider, p.region()))
	}
	moved, keyARN, err = p.reEncrypt(ctx, from.(*keyring), ciphertext, encryptionContext)
	if err != nil {
		return nil, "", p.fail(ctx, "ReEncrypt", err)
	}
	return moved, keyARN, nil
}

func (p *keyring) reEncrypt(ctx context.Context, from *keyring, blob []byte, encryptionContext map[string]string) (moved []byte, destination string, err error) {
	// A key that is configured by its ARN needs no check.
	if err := from.ensureARN(ctx); err != nil {
		return nil, "", err
	}
	if err := p.ensureARN(ctx); err != nil {
		return nil, "", err
	}
	source := from.KeyID()
	destination = p.KeyID()
	out, err := p.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		SourceKeyId: aws.String(source), SourceEncryptionContext: encryptionContext, CiphertextBlob: blob,
		DestinationKeyId: aws.String(destination), DestinationEncryptionContext: encryptionContext, GrantTokens: p.grantTokens,
	})
	if err != nil {
		return nil, "", err
	}
	if got := aws.ToString(out.SourceKeyId); got != source {
		return nil, "", fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, source, got)
	}
	if err := p.checkAnswer(destination, aws.ToString(out.KeyId), out.CiphertextBlob); err != nil {
		return nil, "", err
	}
	return out.CiphertextBlob, destination, nil
}
