package awskms

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// defaultPartition is the partition of all Regions except those of China, GovCloud and other
// separate ones.
const defaultPartition = "aws"

// DiscoveryConfig configures NewDiscovery: the accounts to trust, and the way to KMS. Credentials
// and Region are found as for a Config.
type DiscoveryConfig struct {
	Accounts  []string // 12-digit IDs of the AWS accounts whose keys are trusted; required
	Partition string   // of the accounts, default "aws"

	Region  string // in which to ask KMS
	Profile string // of the shared AWS configuration files

	MaxRetries int           // retries of a failed attempt that may succeed later; 0 means 3
	Timeout    time.Duration // of each attempt, from connecting to the last byte; 0 means 10 s

	GrantTokens []string    // at most 10, of grants so new that KMS may not know them everywhere
	Endpoint    string      // URL of another KMS endpoint: a VPC endpoint, LocalStack
	Client      *kms.Client // used in place of Region, Profile, MaxRetries and Endpoint
}

// connection returns the fields that say how to reach KMS.
func (c *DiscoveryConfig) connection() *connection {
	return &connection{
		region: c.Region, profile: c.Profile, endpoint: c.Endpoint, client: c.Client,
		maxRetries: c.MaxRetries, timeout: c.Timeout, grantTokens: c.GrantTokens,
	}
}

// discovery is the keyring of NewDiscovery.
type discovery struct {
	service
	accounts  []string
	partition string
	region    string
}

// NewDiscovery returns a keyring that decrypts messages under any symmetric KMS key of stated
// accounts. It need not know the key beforehand (specification:
// framework/aws-kms/aws-kms-mrk-discovery-keyring.md). It asks KMS in one Region: about keys of
// that Region, and about multi-Region keys of others by their replica in it. It makes one call of
// KMS Decrypt for a data key, or none if the wrapping key is not one of the stated accounts.
//
// NewDiscovery asks neither KMS nor a source of credentials. The error holds
// provider.ErrInvalidKey.
func NewDiscovery(ctx context.Context, c DiscoveryConfig) (provider.Unwrapper, error) {
	d, err := newDiscovery(ctx, c)
	if err != nil {
		return nil, err // d would be an Unwrapper that holds a nil pointer, and not nil
	}
	return d, nil
}

func newDiscovery(ctx context.Context, c DiscoveryConfig) (*discovery, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	loaded, err := c.connection().load(ctx)
	if err != nil {
		return nil, err
	}
	return &discovery{
		service: loaded, accounts: slices.Clone(c.Accounts),
		partition: cmp.Or(c.Partition, defaultPartition), region: loaded.region(),
	}, nil
}

func (c *DiscoveryConfig) validate() error {
	if err := c.connection().validate(); err != nil {
		return err
	}
	if len(c.Accounts) == 0 {
		return fmt.Errorf("%w: discovery needs the accounts whose keys to trust", provider.ErrInvalidKey)
	}
	for _, account := range c.Accounts {
		if len(account) != 12 || strings.Trim(account, "0123456789") != "" {
			return fmt.Errorf("%w: account %q is not 12 digits", provider.ErrInvalidKey, account)
		}
	}
	return nil
}

func (d *discovery) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	keyARN, err := d.trusted(request.EncryptedKey)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", "", err)
	}
	key, err := d.unwrap(ctx, keyARN, request)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", keyARN, err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

const keyIDCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"

// trusted returns the ARN under which to ask KMS for a wrapped data key.
func (d *discovery) trusted(wrapped header.EncryptedDataKey) (string, error) {
	if wrapped.ProviderID != providerID {
		return "", provider.ErrUntrustedKey
	}
	stated := string(wrapped.ProviderInfo)
	if !arns.IsKey(stated) {
		return "", provider.ErrUntrustedKey
	}
	a, _ := arn.Parse(stated)
	id := strings.TrimPrefix(a.Resource, "key/")
	if strings.Trim(id, keyIDCharacters) != "" || a.Partition != d.partition || !slices.Contains(d.accounts, a.AccountID) {
		return "", provider.ErrUntrustedKey
	}
	if a.Region != d.region && !arns.IsMultiRegion(a) {
		return "", fmt.Errorf("%w: the key %q is in Region %q, and this discovery asks KMS in %s; discover in the key's Region", provider.ErrUntrustedKey, stated, a.Region, d.region)
	}
	a.Region = d.region
	return a.String(), nil
}
