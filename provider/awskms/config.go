package awskms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdh"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/internal/kmsclient"
	"piko.sh/pikokms/provider"
)

// The defaults of a configuration's fields.
const (
	defaultMaxRetries = 3
	defaultTimeout    = 10 * time.Second
)

// maxGrantTokens is KMS's limit (KMS API Reference, GrantTokens).
const maxGrantTokens = 10

// Config configures a provider or what NewDiscovery returns: the keys, and the way to KMS. It also
// says what wraps the branch keys of package branchkey. Each constructor refuses the fields that it
// has no use for.
//
// What it leaves out is found as AWS's tools find it. Credentials come from the environment, a
// profile or a role. The Region is that of KeyID if that is an ARN. Otherwise it is that of the
// environment variable AWS_REGION or AWS_DEFAULT_REGION, or else that of the profile. The AWS SDK
// logs to slog's default logger.
type Config struct {
	KeyID   string // key ID, key ARN, alias name ("alias/…") or alias ARN; branch keys take ARNs of keys only
	Region  string // of the key
	Profile string // of the shared AWS configuration files

	MaxRetries int           // retries of a failed attempt that may succeed later; 0 means 3
	Timeout    time.Duration // of each attempt, from connecting to the last byte; 0 means 10 s

	// CheckLater makes NewProvider make no call, so that a process can start while KMS is down. The
	// key is checked when it is first needed.
	CheckLater bool

	// Accounts are the 12-digit IDs of AWS accounts, all of whose keys are trusted, in place of KeyID
	// and TrustedKeys. They are for NewDiscovery, and for package branchkey, which can read branch
	// keys with them but can't make new ones. Partition is that of the accounts, default "aws".
	Accounts  []string
	Partition string

	// MultiRegion makes package branchkey treat all ARNs of the configuration as multi-Region keys.
	// It then also trusts a branch key that a replica of one of them wraps. KMS is asked about the
	// configured ARN, which must be in the Region. A provider needs no such setting.
	MultiRegion bool

	TrustedKeys []string    // ARNs of further keys to decrypt under
	GrantTokens []string    // at most 10, of grants so new that KMS may not know them everywhere
	Endpoint    string      // URL of another KMS endpoint: a VPC endpoint, LocalStack
	Client      *kms.Client // used in place of Region, Profile, MaxRetries and Endpoint

	// PublicKey is the public half of an RSA or EC key in PEM, and PublicKeyFile is a file of it. With
	// one of them, encrypting makes no call of KMS and needs no credentials, unless there is a peer,
	// and NewProvider does not check the key. KeyID must then be a key ARN. Without them, KMS is asked
	// for the public key when it is first needed.
	PublicKey     []byte
	PublicKeyFile string

	// Peer is the other party's public EC key in PEM, and PeerFile is a file of it. The key must be an
	// EC key for key agreement.
	Peer     []byte
	PeerFile string

	// Hash is the hash of an RSA key's OAEP padding: SHA256 or SHA1; 0 means SHA256.
	Hash crypto.Hash
}

// validate checks what can be checked without the environment, for a provider.
func (c *Config) validate() error {
	if len(c.Accounts) > 0 || c.Partition != "" || c.MultiRegion {
		return fmt.Errorf("%w: a Provider takes neither Accounts and Partition, which are for NewDiscovery, nor MultiRegion", provider.ErrInvalidKey)
	}
	if c.KeyID == "" {
		return fmt.Errorf("%w: KeyID is empty; give a key ID, key ARN, alias name or alias ARN", provider.ErrInvalidKey)
	}
	if strings.HasPrefix(c.KeyID, "arn:") && !arns.IsKey(c.KeyID) && !arns.IsAlias(c.KeyID) {
		return fmt.Errorf("%w: %q is not the ARN of a KMS key or alias", provider.ErrInvalidKey, c.KeyID)
	}
	for _, keyARN := range c.TrustedKeys {
		if !arns.IsKey(keyARN) {
			return fmt.Errorf("%w: TrustedKeys holds %q, which is not the ARN of a KMS key", provider.ErrInvalidKey, keyARN)
		}
	}
	if c.Hash != 0 && c.Hash != crypto.SHA256 && c.Hash != crypto.SHA1 {
		return fmt.Errorf("%w: KMS has OAEP padding with SHA-256 and SHA-1, not with %v", provider.ErrInvalidKey, c.Hash)
	}
	switch public := c.PublicKey != nil || c.PublicKeyFile != ""; {
	case c.PublicKey != nil && c.PublicKeyFile != "":
		return fmt.Errorf("%w: both PublicKey and PublicKeyFile are given", provider.ErrInvalidKey)
	case public && !arns.IsKey(c.KeyID):
		return fmt.Errorf("%w: with a public key, KeyID must be a key ARN, since messages carry it and KMS is not asked for it; %q is none", provider.ErrInvalidKey, c.KeyID)
	}
	if c.Peer != nil && c.PeerFile != "" {
		return fmt.Errorf("%w: both Peer and PeerFile are given", provider.ErrInvalidKey)
	}
	return c.validateConnection()
}

// refuseProviderFields returns an error if a field is set that is only for a provider.
func (c *Config) refuseProviderFields() error {
	if c.CheckLater || c.PublicKey != nil || c.PublicKeyFile != "" || c.Peer != nil || c.PeerFile != "" || c.Hash != 0 {
		return fmt.Errorf("%w: CheckLater, PublicKey, Peer, their files and Hash are for a Provider", provider.ErrInvalidKey)
	}
	return nil
}

// load returns a service in the Region of the configuration's keys.
func (c *Config) load(ctx context.Context) (service, error) {
	if err := c.validate(); err != nil {
		return service{}, err
	}
	loaded, err := c.connect(ctx)
	if err != nil {
		return service{}, err
	}
	if region := arns.Region(c.KeyID); region != "" && region != loaded.region() {
		return service{}, fmt.Errorf("%w: the ARN %s is in Region %s, the configured Region is %s", provider.ErrInvalidKey, c.KeyID, region, loaded.region())
	}
	for _, keyARN := range c.TrustedKeys {
		if arns.Region(keyARN) != loaded.region() {
			return service{}, fmt.Errorf("%w: TrustedKeys holds %s, which is not in the configured Region %s", provider.ErrInvalidKey, keyARN, loaded.region())
		}
	}
	return loaded, nil
}

// publicKey returns the configured public key, or nil.
func (c *Config) publicKey() (any, error) { return publicKeyOf(c.PublicKey, c.PublicKeyFile) }

// peer returns the configured peer's public key, or nil.
func (c *Config) peer() (*ecdh.PublicKey, error) {
	parsed, err := publicKeyOf(c.Peer, c.PeerFile)
	if parsed == nil || err != nil {
		return nil, err
	}
	peer, ok := parsed.(*ecdh.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: the peer's key is no EC key", provider.ErrInvalidKey)
	}
	return peer, nil
}

// publicKeyOf returns the public key of a text or a file, or nil without either.
func publicKeyOf(text []byte, file string) (any, error) {
	if file != "" {
		var err error
		if text, err = readPublicKey(file); err != nil {
			return nil, err
		}
	}
	if text == nil {
		return nil, nil
	}
	return parsePublicKey(text)
}

// validateConnection checks the fields that say how to reach KMS.
func (c *Config) validateConnection() error {
	switch {
	case c.Client != nil && (c.MaxRetries != 0 || c.Endpoint != "" || c.Profile != ""):
		return fmt.Errorf("%w: Profile, MaxRetries and Endpoint belong to the given Client; set them there", provider.ErrInvalidKey)
	case c.Client != nil && c.Region != "" && c.Region != c.Client.Options().Region:
		return fmt.Errorf("%w: the given Client is for Region %q, the configured Region is %s", provider.ErrInvalidKey, c.Client.Options().Region, c.Region)
	case c.MaxRetries < 0:
		return fmt.Errorf("%w: MaxRetries is %d, it cannot be negative", provider.ErrInvalidKey, c.MaxRetries)
	case c.Timeout < 0:
		return fmt.Errorf("%w: Timeout is %v, it cannot be negative", provider.ErrInvalidKey, c.Timeout)
	case len(c.GrantTokens) > maxGrantTokens:
		return fmt.Errorf("%w: %d grant tokens, KMS takes %d", provider.ErrInvalidKey, len(c.GrantTokens), maxGrantTokens)
	}
	return nil
}

// connect returns a service, in the Region of KeyID if none is configured. It asks neither KMS nor
// a source of credentials.
func (c *Config) connect(ctx context.Context) (service, error) {
	client := c.Client
	if client == nil {
		var err error
		if client, err = c.newClient(ctx, cmp.Or(c.Region, arns.Region(c.KeyID))); err != nil {
			return service{}, err
		}
	}
	if client.Options().Region == "" {
		return service{}, fmt.Errorf("%w: no Region is configured; give the key's Region, or its ARN, or set AWS_REGION or the profile's region", provider.ErrInvalidKey)
	}
	return service{client: kmsclient.Bound(client, cmp.Or(c.Timeout, defaultTimeout)), grantTokens: slices.Clone(c.GrantTokens)}, nil
}

func (c *Config) newClient(ctx context.Context, region string) (*kms.Client, error) {
	retries := cmp.Or(c.MaxRetries, defaultMaxRetries)
	options := []func(*config.LoadOptions) error{config.WithRegion(region), config.WithRetryMaxAttempts(1 + retries), config.WithLogger(Logger)}
	if c.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(c.Profile))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: loading the AWS configuration: %w", provider.ErrInvalidKey, err)
	}
	return kms.NewFromConfig(loaded, func(o *kms.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	}), nil
}
