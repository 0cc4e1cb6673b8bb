// Package awskms is the encryption provider on AWS KMS.
//
// It wraps data keys as the AWS Encryption SDK's AWS KMS keyring does (specification: framework/aws-kms/aws-kms-keyring.md):
// GenerateDataKey to encrypt and Decrypt to decrypt, each with the message's encryption context, which CloudTrail records.
// A Provider encrypts under its own key, or under the one that a request names. To decrypt it asks
// KMS about keys that it trusts only: its own key (the ARN that DescribeKey gave for the configured
// key, whatever alias was configured), the TrustedKeys of its Config, the keys that its requests to
// encrypt have named, and multi-Region replicas of these. What a message or a request to decrypt
// names is asked about only if it is one of them. A Discovery decrypts under any key of stated
// accounts.
//
// Retries, timeouts and cancellation are the AWS SDK's.
package awskms

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

const (
	// DefaultMaxRetries stands for a MaxRetries of 0.
	DefaultMaxRetries = 3

	// MaxDirectSize is the largest plaintext in bytes that KMS itself encrypts (KMS API Reference, Encrypt, symmetric keys).
	MaxDirectSize = 4096

	maxGrantTokens = 10 // KMS API Reference, GrantTokens

	// providerID is the key provider ID of AWS KMS (specification: framework/aws-kms/aws-kms-keyring.md).
	providerID = "aws-kms"
)

// Config says which key to use and how to reach KMS. Credentials come from the AWS SDK's standard chain.
type Config struct {
	KeyID      string // key ID, key ARN, alias name ("alias/…") or alias ARN; required
	Region     string // of the key; required unless Client is given
	MaxRetries int    // retries after a failed call that may succeed later; 0 means 3

	TrustedKeys []string    // ARNs of further keys to decrypt under
	GrantTokens []string    // of grants too new to be known everywhere, at most 10
	Endpoint    string      // URL of another KMS endpoint: a VPC endpoint, LocalStack
	Client      *kms.Client // a ready client instead of Region, MaxRetries and Endpoint
}

func (c *Config) validate() error {
	if c.KeyID == "" {
		return fmt.Errorf("%w: KeyID is empty; give a key ID, key ARN, alias name or alias ARN", provider.ErrInvalidKey)
	}
	if err := c.validateClient(); err != nil {
		return err
	}
	if strings.HasPrefix(c.KeyID, "arn:") {
		a, err := arn.Parse(c.KeyID)
		if err != nil || a.Service != "kms" || !strings.HasPrefix(a.Resource, "key/") && !strings.HasPrefix(a.Resource, "alias/") {
			return fmt.Errorf("%w: %q is not the ARN of a KMS key or alias", provider.ErrInvalidKey, c.KeyID)
		}
		if a.Region != c.Region {
			return fmt.Errorf("%w: the ARN %s is in Region %s, the configured Region is %s", provider.ErrInvalidKey, c.KeyID, a.Region, c.Region)
		}
	}
	for _, keyARN := range c.TrustedKeys {
		if a, err := arn.Parse(keyARN); err != nil || a.Service != "kms" || !strings.HasPrefix(a.Resource, "key/") || a.Region != c.Region {
			return fmt.Errorf("%w: TrustedKeys holds %q, which is not the ARN of a KMS key in Region %s", provider.ErrInvalidKey, keyARN, c.Region)
		}
	}
	return nil
}

// validateClient checks what says how to reach KMS, and takes the Region of a given client.
func (c *Config) validateClient() error {
	if c.Client != nil {
		if c.MaxRetries != 0 || c.Endpoint != "" || c.Region != "" && c.Region != c.Client.Options().Region {
			return errors.New("awskms: Region, MaxRetries and Endpoint belong to the given Client; set them there")
		}
		c.Region = c.Client.Options().Region
	}
	if c.Region == "" {
		return fmt.Errorf("%w: Region is empty; give the key's Region, such as eu-west-1", provider.ErrInvalidKey)
	}
	if c.MaxRetries < 0 {
		return fmt.Errorf("awskms: MaxRetries is %d, it cannot be negative", c.MaxRetries)
	}
	if len(c.GrantTokens) > maxGrantTokens {
		return fmt.Errorf("%w: %d grant tokens, KMS takes %d", provider.ErrInvalidKey, len(c.GrantTokens), maxGrantTokens)
	}
	return nil
}

// Provider implements provider.EncryptionProvider. It is safe for concurrent use.
type Provider struct {
	service
	keyID string // as configured
	arn   string // of the key
	keys  keys
}

// service is KMS in one Region.
type service struct {
	client      *kms.Client
	grantTokens []string
}

// NewProvider makes a provider and checks its key with one DescribeKey.
//
// The error says what stands in the way and holds one of provider.ErrProviderUnavailable (KMS can't be reached),
// ErrKeyNotFound, ErrAccessDenied (no credentials or no permission), ErrKeyDisabled, ErrKeyPendingDeletion, ErrKeyUsage (not
// a symmetric encryption key) and ErrInvalidKey (the configuration).
func NewProvider(ctx context.Context, c Config) (*Provider, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	reached, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	p := &Provider{service: reached, keyID: c.KeyID}
	metadata, err := p.describe(ctx, c.KeyID)
	if err != nil {
		return nil, p.fail(ctx, "NewProvider", fmt.Errorf("checking the key in Region %s: %w", c.Region, err))
	}
	if err := usable(metadata); err != nil {
		return nil, p.fail(ctx, "NewProvider", err)
	}
	p.arn = aws.ToString(metadata.Arn)
	p.keys.trust(c.KeyID, p.arn)
	for _, keyARN := range c.TrustedKeys {
		p.keys.trust(keyARN, keyARN)
	}
	return p, nil
}

// reach makes a client, if none is given, and checks that there are credentials.
func (c *Config) reach(ctx context.Context) (service, error) {
	reached := service{client: c.Client, grantTokens: slices.Clone(c.GrantTokens)}
	if reached.client == nil {
		retries := c.MaxRetries
		if retries == 0 {
			retries = DefaultMaxRetries
		}
		loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(c.Region), config.WithRetryMaxAttempts(1+retries))
		if err != nil {
			return service{}, fmt.Errorf("awskms: loading the AWS configuration: %w", err)
		}
		reached.client = kms.NewFromConfig(loaded, func(o *kms.Options) {
			if c.Endpoint != "" {
				o.BaseEndpoint = aws.String(c.Endpoint)
			}
		})
	}
	if credentials := reached.client.Options().Credentials; credentials != nil {
		if _, err := credentials.Retrieve(ctx); err != nil {
			return service{}, noCredentials(ctx, c.KeyID, err)
		}
	}
	return reached, nil
}

// usable says why a key cannot wrap data keys.
func usable(m *types.KeyMetadata) error {
	if m.KeyUsage != types.KeyUsageTypeEncryptDecrypt || m.KeySpec != types.KeySpecSymmetricDefault {
		return fmt.Errorf("%w: usage %s, spec %s; a data key needs a symmetric key for ENCRYPT_DECRYPT", provider.ErrKeyUsage, m.KeyUsage, m.KeySpec)
	}
	switch m.KeyState {
	case types.KeyStateEnabled:
		return nil
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		return fmt.Errorf("%w: cancel the deletion and enable the key to use it", provider.ErrKeyPendingDeletion)
	case types.KeyStateDisabled:
		return fmt.Errorf("%w: enable it to use it", provider.ErrKeyDisabled)
	}
	return fmt.Errorf("%w: its state is %s", provider.ErrKeyDisabled, m.KeyState)
}

// ARN returns the key ARN that messages carry.
func (p *Provider) ARN() string { return p.arn }

// KeyID returns the key ID that responses carry to requests that name none, which is the key ARN.
func (p *Provider) KeyID() string { return p.arn }

// Region returns the Region in which KMS is asked.
func (p *Provider) Region() string { return p.client.Options().Region }

// Type implements provider.EncryptionProvider.
func (p *Provider) Type() provider.Type { return provider.TypeAWSKMS }

func (p *Provider) describe(ctx context.Context, keyID string) (*types.KeyMetadata, error) {
	out, err := p.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(keyID), GrantTokens: p.grantTokens})
	if err != nil {
		return nil, err
	}
	return out.KeyMetadata, nil
}

// GenerateDataKey implements provider.Keyring with one call of KMS GenerateDataKey.
func (p *Provider) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	asked := p.encryptionKey(request.KeyID)
	spec, size := types.DataKeySpecAes256, 32
	switch request.KeySpec {
	case "", "AES_256":
	case "AES_128":
		spec, size = types.DataKeySpecAes128, 16
	default:
		return nil, p.fail(ctx, "GenerateDataKey", fmt.Errorf("%w: key spec %q is neither AES_256 nor AES_128", provider.ErrInvalidKey, request.KeySpec))
	}
	out, err := p.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String(asked), KeySpec: spec, EncryptionContext: request.Context, GrantTokens: p.grantTokens})
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", asked, err)
	}
	defer clear(out.Plaintext)
	keyARN := aws.ToString(out.KeyId)
	if err := p.answered(asked, keyARN); err != nil {
		return nil, fail(ctx, "GenerateDataKey", asked, err)
	}
	if len(out.Plaintext) != size {
		return nil, fail(ctx, "GenerateDataKey", asked, fmt.Errorf("%w: KMS answered with a data key of %d bytes", provider.ErrEncryptionFailed, len(out.Plaintext)))
	}
	key, err := provider.NewSecureBytes(out.Plaintext)
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", asked, err)
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped(keyARN, out.CiphertextBlob), KeyID: keyARN, Provider: p.Type()}, nil
}

func wrapped(keyARN string, blob []byte) header.EncryptedDataKey {
	return header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(keyARN), Ciphertext: blob}
}

// WrapDataKey implements provider.Keyring with one call of KMS Encrypt.
func (p *Provider) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	var blob []byte
	err := key.WithAccess(func(plain []byte) (err error) {
		blob, _, err = p.encrypt(ctx, p.arn, plain, encryptionContext)
		return err
	})
	if err != nil {
		return header.EncryptedDataKey{}, p.fail(ctx, "WrapDataKey", err)
	}
	return wrapped(p.arn, blob), nil
}

// encrypt asks KMS to encrypt under a key, and returns the key's ARN, too.
func (p *Provider) encrypt(ctx context.Context, asked string, plaintext []byte, encryptionContext map[string]string) (blob []byte, keyARN string, err error) {
	out, err := p.client.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(asked), Plaintext: plaintext, EncryptionContext: encryptionContext, GrantTokens: p.grantTokens})
	if err != nil {
		return nil, "", err
	}
	keyARN = aws.ToString(out.KeyId)
	if err := p.answered(asked, keyARN); err != nil {
		return nil, "", err
	}
	return out.CiphertextBlob, keyARN, nil
}

// decrypt asks KMS for what was encrypted under the key of this ARN and no other.
func (s *service) decrypt(ctx context.Context, keyARN string, blob []byte, encryptionContext map[string]string) ([]byte, error) {
	out, err := s.client.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(keyARN), CiphertextBlob: blob, EncryptionContext: encryptionContext, GrantTokens: s.grantTokens})
	if err != nil {
		return nil, err
	}
	if got := aws.ToString(out.KeyId); got != keyARN {
		clear(out.Plaintext)
		return nil, fmt.Errorf("%w: KMS answered for key %q", provider.ErrDecryptionFailed, got)
	}
	return out.Plaintext, nil
}

func (s *service) unwrap(ctx context.Context, keyARN string, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	plain, err := s.decrypt(ctx, keyARN, request.EncryptedKey.Ciphertext, request.Context)
	if err != nil {
		return nil, err
	}
	if len(plain) != request.Size {
		clear(plain)
		return nil, fmt.Errorf("%w: the data key has %d bytes, the message's suite takes %d", provider.ErrDecryptionFailed, len(plain), request.Size)
	}
	return provider.NewSecureBytes(plain)
}

// UnwrapDataKey implements provider.Keyring with one call of KMS Decrypt, or none when the data key
// is not under a key that the provider trusts. A data key under a trusted multi-Region key's
// replica in another Region is under that key.
func (p *Provider) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	keyARN, trusted := p.keys.find(string(request.EncryptedKey.ProviderInfo))
	if request.EncryptedKey.ProviderID != providerID || !trusted {
		return nil, p.fail(ctx, "UnwrapDataKey", provider.ErrUntrustedKey)
	}
	key, err := p.unwrap(ctx, keyARN, request)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", keyARN, err)
	}
	return key, nil
}

// sameKey reports whether two key ARNs name one key or replicas of one multi-Region key (specification:
// framework/aws-kms/aws-kms-mrk-match-for-decrypt.md).
func sameKey(a, b string) bool {
	if a == b {
		return true
	}
	x, errA := arn.Parse(a)
	y, errB := arn.Parse(b)
	x.Region = y.Region
	return errA == nil && errB == nil && x == y && isMultiRegion(x)
}

func isMultiRegion(a arn.ARN) bool { return strings.HasPrefix(a.Resource, "key/mrk-") }

// Encrypt implements provider.EncryptionProvider. Up to MaxDirectSize bytes are encrypted by KMS itself and the result is
// the base64 text of its ciphertext; more is encrypted under a data key to the text of an AWS Encryption SDK message.
// Either way KMS is called once.
func (p *Provider) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if request.Plaintext == "" {
		return nil, p.fail(ctx, "Encrypt", provider.ErrEmptyPlaintext)
	}
	if err := errors.Join(header.CheckContext(request.Context), provider.CheckStated(request.Context)); err != nil {
		return nil, p.fail(ctx, "Encrypt", err)
	}
	asked := p.encryptionKey(request.KeyID)
	response := &provider.EncryptResponse{Provider: p.Type()}
	if len(request.Plaintext) > MaxDirectSize {
		under := &requested{Provider: p, keyID: asked}
		text, err := message.EncryptText(ctx, under, request)
		if err != nil {
			return nil, fail(ctx, "Encrypt", asked, err)
		}
		response.Ciphertext, response.KeyID = text, under.arn
		return response, nil
	}
	blob, keyARN, err := p.encrypt(ctx, asked, []byte(request.Plaintext), request.Context)
	if err != nil {
		return nil, fail(ctx, "Encrypt", asked, err)
	}
	response.Ciphertext, response.KeyID = base64.StdEncoding.EncodeToString(blob), keyARN
	return response, nil
}

// Decrypt implements provider.EncryptionProvider. The request's context must equal the one given to
// Encrypt. KMS is called once if the request names the key, or the provider trusts no other than
// its own. A value that KMS encrypted itself and whose key is not named is tried under the trusted
// keys one after the other, 16 at most.
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
		if _, err := p.keys.candidates(request.KeyID); err != nil {
			return nil, p.fail(ctx, "Decrypt", err)
		}
		plaintext, err := message.DecryptText(ctx, p, ciphertext, request)
		if err != nil {
			return nil, p.fail(ctx, "Decrypt", err)
		}
		return &provider.DecryptResponse{Plaintext: plaintext}, nil
	}
	plaintext, err := p.decryptTrusted(ctx, request.KeyID, ciphertext, request.Context)
	if err != nil {
		return nil, fail(ctx, "Decrypt", cmp.Or(request.KeyID, p.arn), err)
	}
	defer clear(plaintext)
	return &provider.DecryptResponse{Plaintext: string(plaintext)}, nil
}

// CanReEncrypt implements provider.ReEncrypter: KMS moves values between the keys of one Region.
func (p *Provider) CanReEncrypt(from provider.EncryptionProvider) bool {
	source, ok := from.(*Provider)
	return ok && source.Region() == p.Region()
}

// ReEncrypt implements provider.ReEncrypter with one call of KMS ReEncrypt, for what Encrypt made of
// up to MaxDirectSize bytes.
func (p *Provider) ReEncrypt(ctx context.Context, from provider.EncryptionProvider, request *provider.DecryptRequest) (*provider.EncryptResponse, error) {
	if !p.CanReEncrypt(from) {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: the value's provider is not of AWS KMS in Region %s", provider.ErrInvalidProvider, p.Region()))
	}
	if err := provider.CheckStated(request.Context); err != nil {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: %w", provider.ErrContextMismatch, err))
	}
	sourceARN := from.(*Provider).arn
	blob, err := base64.StdEncoding.DecodeString(request.Ciphertext)
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: not base64: %w", provider.ErrInvalidCiphertext, err))
	}
	out, err := p.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		SourceKeyId: aws.String(sourceARN), SourceEncryptionContext: request.Context, CiphertextBlob: blob,
		DestinationKeyId: aws.String(p.arn), DestinationEncryptionContext: request.Context, GrantTokens: p.grantTokens,
	})
	if err != nil {
		return nil, p.fail(ctx, "ReEncrypt", err)
	}
	if from, to := aws.ToString(out.SourceKeyId), aws.ToString(out.KeyId); from != sourceARN || to != p.arn {
		return nil, p.fail(ctx, "ReEncrypt", fmt.Errorf("%w: KMS answered for keys %q and %q", provider.ErrEncryptionFailed, from, to))
	}
	return &provider.EncryptResponse{Ciphertext: base64.StdEncoding.EncodeToString(out.CiphertextBlob), KeyID: p.arn, Provider: p.Type()}, nil
}

// GetKeyInfo implements provider.EncryptionProvider. It describes any key that the credentials may describe.
func (p *Provider) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	if keyID == "" {
		keyID = p.arn
	}
	m, err := p.describe(ctx, keyID)
	if err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", err)
	}
	status := provider.KeyStatusDisabled
	switch m.KeyState {
	case types.KeyStateEnabled:
		status = provider.KeyStatusActive
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		status = provider.KeyStatusDestroyed
	}
	return &provider.KeyInfo{
		KeyID:        aws.ToString(m.KeyId),
		Provider:     p.Type(),
		Algorithm:    string(m.KeySpec),
		Status:       status,
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

// HealthCheck implements provider.EncryptionProvider with two calls of KMS.
func (p *Provider) HealthCheck(ctx context.Context) error {
	if err := provider.Check(ctx, p); err != nil {
		return p.fail(ctx, "HealthCheck", err)
	}
	return nil
}

var _ provider.ReEncrypter = (*Provider)(nil)
