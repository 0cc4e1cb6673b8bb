package awskms

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/internal/kmsclient"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/lazy"
)

// curves are the curves of the key specs that the specification allows for key agreement.
var curves = map[types.KeySpec]ecdh.Curve{
	types.KeySpecEccNistP256: ecdh.P256(), types.KeySpecEccNistP384: ecdh.P384(), types.KeySpecEccNistP521: ecdh.P521(),
}

func isEC(spec types.KeySpec) bool { return curves[spec] != nil }

// ecKey is what a provider knows about its EC key in KMS, apart from the ARN.
type ecKey struct {
	public lazy.Value[*ecdh.PublicKey]
	peer   *ecdh.PublicKey // nil without one
}

// ownPublic returns the public half of the provider's own EC key.
func (p *keyring) ownPublic(ctx context.Context, keyARN string) (*ecdh.PublicKey, error) {
	return p.ec.public.Get(ctx, func(ctx context.Context) (*ecdh.PublicKey, error) {
		parsed, err := p.getPublicKey(ctx, keyARN)
		if err != nil {
			return nil, err
		}
		public, ok := parsed.(*ecdh.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%w: KMS answered with a public key of another kind than the key's", provider.ErrEncryptionFailed)
		}
		if p.ec.peer != nil {
			if _, err := ecdhwrap.NewParties(public, p.ec.peer); err != nil {
				return nil, err
			}
		}
		return public, nil
	})
}

// wrapEC wraps a data key for the peer. Without a peer, it wraps the data key for the provider's
// own key under an ephemeral key, which takes no call.
func (p *keyring) wrapEC(ctx context.Context, keyARN string, plain []byte, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	own, err := p.ownPublic(ctx, keyARN)
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	wrapped := header.EncryptedDataKey{ProviderID: ecdhwrap.KMSID}
	parties := ecdhwrap.Parties{Sender: own, Recipient: p.ec.peer}
	var shared []byte
	if p.ec.peer != nil {
		shared, err = p.deriveSharedSecret(ctx, keyARN, p.ec.peer)
	} else {
		if err = ctx.Err(); err != nil {
			return header.EncryptedDataKey{}, err
		}
		wrapped.ProviderID = ecdhwrap.RawID
		var ephemeral *ecdh.PrivateKey
		if ephemeral, err = own.Curve().GenerateKey(rand.Reader); err == nil {
			parties = ecdhwrap.Parties{Sender: ephemeral.PublicKey(), Recipient: own}
			shared, err = ephemeral.ECDH(own)
		}
	}
	if err != nil {
		return header.EncryptedDataKey{}, err
	}
	defer clear(shared)
	wrapped.ProviderInfo = parties.Info()
	wrapped.Ciphertext, err = parties.Wrap(shared, plain, encryptionContext)
	return wrapped, err
}

// agreement returns the parties of a data key. If the provider's own EC key is not among them, the
// error holds provider.ErrUntrustedKey. It calls KMS only to learn of the provider's own key.
func (p *keyring) agreement(ctx context.Context, wrapped header.EncryptedDataKey) (parties ecdhwrap.Parties, keyARN string, err error) {
	parties, err = ecdhwrap.ParseInfo(wrapped.ProviderInfo)
	if err != nil || p.under != "" {
		return parties, "", provider.ErrUntrustedKey
	}
	under, err := p.own.Get(ctx, p.check)
	if err != nil {
		return parties, "", err
	}
	if under.kind != ecdhKind {
		return parties, "", provider.ErrUntrustedKey
	}
	own, err := p.ownPublic(ctx, under.arn)
	if err != nil {
		return parties, "", err
	}
	if p.ec.peer != nil && !parties.Are(own, p.ec.peer) || p.ec.peer == nil && !parties.Recipient.Equal(own) {
		return parties, "", provider.ErrUntrustedKey
	}
	return parties, under.arn, nil
}

// unwrapEC asks KMS for the secret that unwraps a data key.
func (p *keyring) unwrapEC(ctx context.Context, keyARN string, parties ecdhwrap.Parties, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	peer := parties.Sender
	if p.ec.peer != nil {
		peer = p.ec.peer
	}
	shared, err := p.deriveSharedSecret(ctx, keyARN, peer)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	plain, err := parties.Unwrap(shared, request.EncryptedKey.Ciphertext, request.Size, request.Context)
	if err != nil {
		return nil, err
	}
	return newDataKey(plain, request.Size)
}

// isCurrentEC reports whether the provider would wrap a data key in this way today.
func (p *keyring) isCurrentEC(ctx context.Context, wrapped header.EncryptedDataKey) (bool, error) {
	parties, _, err := p.agreement(ctx, wrapped)
	switch {
	case err == provider.ErrUntrustedKey:
		return false, nil
	case err != nil:
		return false, err
	case p.ec.peer == nil:
		return wrapped.ProviderID == ecdhwrap.RawID, nil
	}
	return wrapped.ProviderID == ecdhwrap.KMSID && parties.Recipient.Equal(p.ec.peer), nil
}

// deriveSharedSecret makes one call of KMS DeriveSharedSecret. The caller clears the result.
func (s *service) deriveSharedSecret(ctx context.Context, keyARN string, peer *ecdh.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: the peer's public key: %w", provider.ErrInvalidKey, err)
	}
	ctx, held := kmsclient.Hold(ctx)
	out, err := s.client.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{
		KeyId: aws.String(keyARN), KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: der, GrantTokens: s.grantTokens,
	})
	if err != nil {
		return nil, err
	}
	shared := held.Take(out.SharedSecret)
	if got := aws.ToString(out.KeyId); got != keyARN {
		clear(shared)
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrDecryptionFailed, keyARN, got)
	}
	if len(shared) == 0 {
		return nil, fmt.Errorf("%w: KMS answered without a shared secret", provider.ErrDecryptionFailed)
	}
	return shared, nil
}
