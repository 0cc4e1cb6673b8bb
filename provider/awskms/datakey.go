package awskms

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/internal/kmsclient"
	"piko.sh/pikokms/provider"
)

// GenerateDataKey makes one call of KMS GenerateDataKey. Under an RSA key, and an EC key without a
// peer, it makes none, and under one with a peer one of DeriveSharedSecret.
func (p *keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	under, err := p.encryptionKey(ctx)
	if err != nil {
		return nil, p.fail(ctx, "GenerateDataKey", err)
	}
	if under.kind != symmetricKind {
		return p.generateLocally(ctx, under, encryptionContext)
	}
	key, wrapped, err := p.generate(ctx, under.arn, encryptionContext)
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", under.arn, err)
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: string(wrapped.ProviderInfo)}, nil
}

// generateLocally makes a data key of random numbers, for a key under which KMS makes none.
func (p *keyring) generateLocally(ctx context.Context, under ownKey, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", under.arn, err)
	}
	wrapped, err := p.wrap(ctx, under, key, encryptionContext)
	if err != nil {
		return nil, errors.Join(fail(ctx, "GenerateDataKey", under.arn, err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: under.arn}, nil
}

// generate asks KMS for a data key under a symmetric key.
func (p *keyring) generate(ctx context.Context, asked string, encryptionContext map[string]string) (*provider.SecureBytes, header.EncryptedDataKey, error) {
	ctx, held := kmsclient.Hold(ctx)
	out, err := p.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String(asked), KeySpec: types.DataKeySpecAes256, EncryptionContext: encryptionContext, GrantTokens: p.grantTokens,
	})
	if _, ok := errors.AsType[*types.InvalidKeyUsageException](err); ok {
		err = fmt.Errorf("%w: an RSA or EC key needs a provider of its own, with kms:DescribeKey permitted or the public key given: %w", provider.ErrKeyUsage, err)
	}
	if err != nil {
		return nil, header.EncryptedDataKey{}, err
	}
	plain := held.Take(out.Plaintext)
	defer clear(plain)
	if len(plain) != provider.DataKeySize {
		return nil, header.EncryptedDataKey{}, fmt.Errorf("%w: KMS answered with a data key of %d bytes, it was asked for %d", provider.ErrEncryptionFailed, len(plain), provider.DataKeySize)
	}
	wrapped, err := p.wrapped(asked, aws.ToString(out.KeyId), out.CiphertextBlob)
	if err != nil {
		return nil, header.EncryptedDataKey{}, err
	}
	key, err := provider.NewSecureBytes(plain)
	return key, wrapped, err
}

// wrapped returns the wrapped data key of an answer, if the answer is about the key that was asked
// for.
func (p *keyring) wrapped(asked, keyARN string, blob []byte) (header.EncryptedDataKey, error) {
	if err := p.checkAnswer(asked, keyARN, blob); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(keyARN), Ciphertext: blob}, nil
}

// WrapDataKey makes one call of KMS Encrypt, or of DeriveSharedSecret, or none, as GenerateDataKey.
func (p *keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	under, err := p.encryptionKey(ctx)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	wrapped, err := p.wrap(ctx, under, key, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	return wrapped, nil
}

func (p *keyring) wrap(ctx context.Context, under ownKey, key *provider.SecureBytes, encryptionContext map[string]string) (wrapped header.EncryptedDataKey, err error) {
	err = key.WithAccess(func(plain []byte) (err error) {
		switch under.kind {
		case rsaKind:
			wrapped, err = p.wrapRSA(ctx, under.arn, plain, encryptionContext)
			return err
		case ecdhKind:
			wrapped, err = p.wrapEC(ctx, under.arn, plain, encryptionContext)
			return err
		}
		blob, keyARN, err := p.encrypt(ctx, under.arn, plain, encryptionContext)
		if err == nil {
			wrapped, err = p.wrapped(under.arn, keyARN, blob)
		}
		return err
	})
	return wrapped, err
}

// encrypt asks KMS to encrypt under a symmetric key. It also returns the key's ARN.
func (p *keyring) encrypt(ctx context.Context, asked string, plaintext []byte, encryptionContext map[string]string) (blob []byte, keyARN string, err error) {
	out, err := p.client.Encrypt(ctx, &kms.EncryptInput{
		KeyId: aws.String(asked), Plaintext: plaintext, EncryptionContext: encryptionContext, GrantTokens: p.grantTokens,
	})
	if err != nil {
		return nil, "", err
	}
	keyARN = aws.ToString(out.KeyId)
	return out.CiphertextBlob, keyARN, p.checkAnswer(asked, keyARN, out.CiphertextBlob)
}

// UnwrapDataKey makes one call of KMS Decrypt, under an EC key of DeriveSharedSecret, or none if
// the provider does not trust the wrapping key. If it trusts a multi-Region key, it trusts the
// replicas of that key in other Regions.
func (p *keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if ecdhwrap.IsECDH(request.EncryptedKey) {
		parties, keyARN, err := p.agreement(ctx, request.EncryptedKey)
		if err != nil {
			return nil, p.fail(ctx, "UnwrapDataKey", err)
		}
		key, err := p.unwrapEC(ctx, keyARN, parties, request)
		if err != nil {
			return nil, fail(ctx, "UnwrapDataKey", keyARN, err)
		}
		return &provider.DataKey{PlaintextKey: key}, nil
	}
	keyARN, err := p.trusted(ctx, request.EncryptedKey)
	if err != nil {
		return nil, p.fail(ctx, "UnwrapDataKey", err)
	}
	unwrap := p.unwrap
	if request.EncryptedKey.ProviderID == rsaProviderID {
		unwrap = p.unwrapRSA
	}
	key, err := unwrap(ctx, keyARN, request)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", keyARN, err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

// IsCurrent decides by the ARN that the data key names. It asks KMS only for the ARN of a key that
// was configured otherwise. Under an alias that was given to Under it is false, unless the provider
// trusts a single key.
func (p *keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	wrapped := request.EncryptedKey
	if ecdhwrap.IsECDH(wrapped) {
		current, err := p.isCurrentEC(ctx, wrapped)
		if err != nil {
			return false, p.fail(ctx, "IsCurrent", err)
		}
		return current, nil
	}
	if wrapped.ProviderID != providerID && wrapped.ProviderID != rsaProviderID {
		return false, nil
	}
	own := cmp.Or(p.under, p.configured)
	switch {
	case arns.IsKey(own):
	case own == p.configured:
		checked, err := p.own.Get(ctx, p.check)
		if err != nil {
			return false, p.fail(ctx, "IsCurrent", err)
		}
		own = checked.arn
	default:
		candidates, err := p.candidates(ctx)
		if err != nil {
			return false, p.fail(ctx, "IsCurrent", err)
		}
		if len(candidates) > 1 {
			return false, nil
		}
		own = candidates[0]
	}
	return string(wrapped.ProviderInfo) == own, nil
}

// trusted returns the ARN under which to ask KMS for a wrapped data key.
func (p *keyring) trusted(ctx context.Context, wrapped header.EncryptedDataKey) (string, error) {
	stated := string(wrapped.ProviderInfo)
	if wrapped.ProviderID != providerID && wrapped.ProviderID != rsaProviderID || !arns.IsKey(stated) {
		return "", provider.ErrUntrustedKey
	}
	if p.under != "" {
		if _, err := p.candidates(ctx); err != nil {
			return "", err
		}
	}
	if keyARN, ok := p.keys.find(stated); ok {
		return keyARN, nil
	}
	if err := p.ensureARN(ctx); err != nil {
		return "", err
	}
	if keyARN, ok := p.keys.find(stated); ok {
		return keyARN, nil
	}
	return "", provider.ErrUntrustedKey
}

// unwrap asks KMS for a data key under a symmetric key.
func (s *service) unwrap(ctx context.Context, keyARN string, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	plain, err := s.decrypt(ctx, &kms.DecryptInput{
		KeyId: aws.String(keyARN), CiphertextBlob: request.EncryptedKey.Ciphertext, EncryptionContext: request.Context,
	})
	if err != nil {
		return nil, err
	}
	return newDataKey(plain, request.Size)
}

// newDataKey checks the size of an unwrapped data key and takes it.
func newDataKey(plain []byte, size int) (*provider.SecureBytes, error) {
	defer clear(plain)
	if len(plain) != size {
		return nil, fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(plain), size)
	}
	return provider.NewSecureBytes(plain)
}

// decrypt asks KMS to decrypt under the key whose ARN the input has, and no other. The caller
// clears the result.
func (s *service) decrypt(ctx context.Context, input *kms.DecryptInput) ([]byte, error) {
	ctx, held := kmsclient.Hold(ctx)
	input.GrantTokens = s.grantTokens
	out, err := s.client.Decrypt(ctx, input)
	if err != nil {
		return nil, err
	}
	plaintext := held.Take(out.Plaintext)
	if got := aws.ToString(out.KeyId); got != *input.KeyId {
		clear(plaintext)
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrDecryptionFailed, *input.KeyId, got)
	}
	return plaintext, nil
}
