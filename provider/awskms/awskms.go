// Package awskms is the encryption provider on AWS KMS.
//
// Under a symmetric key it wraps data keys as the AWS Encryption SDK's AWS KMS keyring does
// (specification: framework/aws-kms/aws-kms-keyring.md). It calls GenerateDataKey to encrypt and
// Decrypt to decrypt, each with the message's encryption context, which CloudTrail records.
//
// Under an RSA key it wraps them as the AWS KMS RSA keyring does
// (framework/aws-kms/aws-kms-rsa-keyring.md). It encrypts with the public key, without a call, and
// calls Decrypt to decrypt. Anyone with the public key can make messages under it, so a message
// that decrypts does not prove who wrote it.
//
// Under an EC key for key agreement it wraps them as the AWS KMS ECDH keyring does
// (framework/aws-kms/aws-kms-ecdh-keyring.md). With the public key of a peer, it calls
// DeriveSharedSecret to encrypt and to decrypt what the two exchange. Without a peer, it decrypts
// what anyone wrote for the key, and encrypts like the raw ECDH keyring under an ephemeral key,
// without a call.
//
// A provider encrypts under its own key, or under the key that a request names. To decrypt, it asks
// KMS only about keys that it trusts. Those are its own key (the ARN that DescribeKey returned,
// whatever alias was configured), the TrustedKeys of its Config, the keys that requests to encrypt
// have named, and multi-Region replicas of these. A message or a request to decrypt does not make a
// key trusted by naming it. [NewDiscovery] is for decrypting under any key of stated accounts.
//
// # Permissions
//
// Encrypting needs kms:GenerateDataKey. Strings and messages with several recipients also need
// kms:Encrypt. Decrypting needs kms:Decrypt. If the key is configured by its ARN, nothing else is
// needed. If it is configured by its ID or an alias, kms:DescribeKey is needed, too. Encrypting
// under an RSA key needs kms:DescribeKey and kms:GetPublicKey, or no permission if the public key
// is configured. An EC key needs these and kms:DeriveSharedSecret for both directions. The command
// pikokms keys check finds out which of them the credentials have.
//
// # Errors
//
// If KMS or the way to it fails, the error holds one of these:
//
//   - [provider.ErrProviderUnavailable]: no answer in time, a lost connection, throttling that
//     outlasts the retries, a fault of KMS, or an endpoint that is not KMS
//   - [provider.ErrAccessDenied]: no permission, or credentials that are missing, expired or not
//     valid
//   - [provider.ErrKeyNotFound], [provider.ErrKeyDisabled], [provider.ErrKeyPendingDeletion] or
//     [provider.ErrKeyUsage]: the state or kind of the key
//   - [provider.ErrInvalidKey]: the configuration
//   - [provider.ErrDecryptionFailed] or [provider.ErrEncryptionFailed]: anything else
//
// If the caller's context has ended, the error holds the context's error and none of these.
package awskms

import (
	"context"
	"crypto/ecdh"
	"crypto/rsa"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/lazy"
)

// providerID is the key provider ID of AWS KMS in messages (specification:
// framework/aws-kms/aws-kms-keyring.md).
const providerID = "aws-kms"

const providerType provider.Type = "aws_kms"

// keyring is the provider of NewProvider.
type keyring struct {
	service
	configured string // key ID as configured
	own        *lazy.Value[ownKey]
	rsa        *rsaKey
	ec         *ecKey
	keys       *keys
	under      string // key ID of Under; empty for the provider's own key
}

// ownKey is the provider's own key.
type ownKey struct {
	arn  string
	kind kind
}

// kind is how a key wraps data keys.
type kind int

const (
	symmetricKind kind = iota
	rsaKind
	ecdhKind
)

func kindOf(spec types.KeySpec) kind {
	switch {
	case isRSA(spec):
		return rsaKind
	case isEC(spec):
		return ecdhKind
	}
	return symmetricKind
}

// service is KMS in one Region.
type service struct {
	client      *kms.Client
	grantTokens []string
}

func (s *service) region() string { return s.client.Options().Region }

// NewProvider makes a provider and checks its key with one DescribeKey. If the key is configured by
// its ARN and DescribeKey is not permitted, NewProvider assumes a usable symmetric key. With
// CheckLater or a public key in the configuration, it makes no call.
//
// The result is also a [provider.ReEncrypter] for values of up to 4,096 bytes under symmetric keys,
// a [provider.KeySelector] for keys of the Region, a [provider.PikoV2Keyring] and a
// [provider.S3ECKeyring]. A value does not name its key, so to decrypt one, the provider tries the
// keys that it trusts, 16 at most.
//
// KeyID of the result is the key's ARN once the key was checked, and until then what was
// configured. GetKeyInfo describes any key that the credentials may describe, with one DescribeKey.
// IsCurrent decides by the ARN that a data key names. Close does nothing, since the client of KMS
// needs no Close.
//
// The error holds one of those that the package documentation lists.
func NewProvider(ctx context.Context, c Config) (provider.Provider, error) {
	loaded, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	public, err := c.publicKey()
	if err != nil {
		return nil, err
	}
	p := &keyring{
		service: loaded, configured: c.KeyID,
		own: new(lazy.Value[ownKey]), rsa: new(rsaKey), ec: new(ecKey), keys: new(keys),
	}
	if p.ec.peer, err = c.peer(); err != nil {
		return nil, err
	}
	p.rsa.init(c.Hash)
	for _, keyARN := range c.TrustedKeys {
		p.keys.trust(keyARN, keyARN)
	}
	if arns.IsKey(c.KeyID) {
		p.keys.trustOwn(c.KeyID, c.KeyID)
	}
	switch {
	case public != nil:
		if err := p.setPublic(public); err != nil {
			return nil, err
		}
	case !c.CheckLater:
		if _, err := p.own.Get(ctx, p.check); err != nil {
			return nil, p.fail(ctx, "NewProvider", fmt.Errorf("checking the key in Region %s: %w", p.region(), err))
		}
	}
	return p, nil
}

// setPublic sets what the configured public half says about the provider's own key.
func (p *keyring) setPublic(public any) error {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if p.ec.peer != nil {
			return errNoPeer(p.configured)
		}
		p.rsa.public.Set(public)
		p.own.Set(ownKey{p.configured, rsaKind})
	case *ecdh.PublicKey:
		if p.ec.peer != nil {
			if _, err := ecdhwrap.NewParties(public, p.ec.peer); err != nil {
				return err
			}
		}
		p.ec.public.Set(public)
		p.own.Set(ownKey{p.configured, ecdhKind})
	}
	return nil
}

func errNoPeer(key string) error {
	return fmt.Errorf("%w: a peer is for EC keys, and %s is none", provider.ErrInvalidKey, key)
}

// check asks KMS about the provider's own key.
func (p *keyring) check(ctx context.Context) (ownKey, error) {
	m, err := p.describe(ctx, p.configured)
	if err != nil {
		if arns.IsKey(p.configured) && isDenied(err) {
			if p.ec.peer != nil {
				return ownKey{p.configured, ecdhKind}, nil
			}
			return ownKey{arn: p.configured}, nil
		}
		return ownKey{}, err
	}
	if err := CheckKey(m); err != nil {
		return ownKey{}, err
	}
	own := ownKey{aws.ToString(m.Arn), kindOf(m.KeySpec)}
	if p.ec.peer != nil && own.kind != ecdhKind {
		return ownKey{}, errNoPeer(own.arn)
	}
	p.keys.trustOwn(p.configured, own.arn)
	return own, nil
}

// Under implements provider.KeySelector for keys of the same account or Region.
func (p *keyring) Under(keyID string) provider.Provider {
	other := *p
	other.under = keyID
	return &other
}

// KeyID returns the key's ARN. If the key was configured by its ID or an alias, KeyID returns that
// until the key is checked. For a provider of Under, it returns the key ID that was given.
func (p *keyring) KeyID() string {
	if p.under != "" {
		return p.under
	}
	if own, known := p.own.Peek(); known {
		return own.arn
	}
	return p.configured
}

func (p *keyring) Type() provider.Type { return providerType }

// Close does nothing, since the client of KMS needs no Close.
func (p *keyring) Close() error { return nil }

// describe returns KMS's description of a key.
func (s *service) describe(ctx context.Context, keyID string) (*types.KeyMetadata, error) {
	out, err := s.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(keyID), GrantTokens: s.grantTokens})
	if err != nil {
		return nil, err
	}
	if out.KeyMetadata == nil || !isAnswerFor(keyID, aws.ToString(out.KeyMetadata.Arn)) {
		var got string
		if out.KeyMetadata != nil {
			got = aws.ToString(out.KeyMetadata.Arn)
		}
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrInvalidKey, keyID, got)
	}
	return out.KeyMetadata, nil
}

// isAnswerFor reports whether a key ARN in an answer may belong to the key that was asked for.
func isAnswerFor(asked, keyARN string) bool {
	got, _ := arn.Parse(keyARN)
	want, err := arn.Parse(asked)
	switch {
	case !arns.IsKey(keyARN):
		return false
	case err == nil && arns.IsKey(asked):
		return keyARN == asked
	case err == nil: // asked is an alias, which does not have the key's ID
		want.Resource = got.Resource
		return got == want
	}
	return strings.HasPrefix(asked, "alias/") || got.Resource == "key/"+asked
}

// GetKeyInfo describes a key with one call of KMS DescribeKey: the provider's own if keyID is
// empty, or any other that the credentials may describe.
func (p *keyring) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	if keyID == "" {
		keyID = p.KeyID()
	}
	m, err := p.describe(ctx, keyID)
	if err != nil {
		return nil, fail(ctx, "GetKeyInfo", keyID, err)
	}
	return &provider.KeyInfo{
		KeyID:        aws.ToString(m.KeyId),
		Algorithm:    string(m.KeySpec),
		Err:          checkState(m.KeyState),
		CreatedAt:    aws.ToTime(m.CreationDate),
		DeletionDate: m.DeletionDate,
		Description:  aws.ToString(m.Description),
		Origin:       string(m.Origin),
		Metadata: map[string]string{
			"arn":         aws.ToString(m.Arn),
			"account_id":  aws.ToString(m.AWSAccountId),
			"key_manager": string(m.KeyManager),
			"key_state":   string(m.KeyState),
		},
	}, nil
}

var (
	_ provider.KeySelector = (*keyring)(nil)
	_ provider.ReEncrypter = (*keyring)(nil)
)
