package awskms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// DefaultPartition is the partition of all Regions but those of China, GovCloud and other separate ones.
const DefaultPartition = "aws"

// DiscoveryConfig says whose keys to trust and how to reach KMS. Credentials come from the AWS SDK's standard chain.
type DiscoveryConfig struct {
	Accounts  []string // 12-digit IDs of the AWS accounts whose keys are trusted; required
	Partition string   // of the accounts, default "aws"

	Region     string // in which KMS is asked; required unless Client is given
	MaxRetries int    // retries after a failed call that may succeed later; 0 means 3

	GrantTokens []string    // of grants too new to be known everywhere, at most 10
	Endpoint    string      // URL of another KMS endpoint: a VPC endpoint, LocalStack
	Client      *kms.Client // a ready client instead of Region, MaxRetries and Endpoint
}

func (c *DiscoveryConfig) client() *Config {
	return &Config{Region: c.Region, MaxRetries: c.MaxRetries, GrantTokens: c.GrantTokens, Endpoint: c.Endpoint, Client: c.Client}
}

// Discovery is a keyring that decrypts messages under any KMS key of stated accounts, without knowing the key beforehand
// (specification: framework/aws-kms/aws-kms-mrk-discovery-keyring.md). It asks KMS in one Region: about keys of that Region,
// and about multi-Region keys of others by their replica in it. It cannot encrypt. It is safe for concurrent use.
type Discovery struct {
	service
	accounts          []string
	partition, region string
}

// NewDiscovery makes a Discovery. KMS is not asked. The error holds provider.ErrInvalidKey (the configuration) or
// provider.ErrAccessDenied (no credentials).
func NewDiscovery(ctx context.Context, c DiscoveryConfig) (*Discovery, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	client := c.client()
	reached, err := client.reach(ctx)
	if err != nil {
		return nil, err
	}
	d := &Discovery{service: reached, accounts: slices.Clone(c.Accounts), partition: c.Partition, region: c.Region}
	if d.partition == "" {
		d.partition = DefaultPartition
	}
	return d, nil
}

func (c *DiscoveryConfig) validate() error {
	client := c.client()
	if err := client.validateClient(); err != nil {
		return err
	}
	c.Region = client.Region
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

// UnwrapDataKey implements provider.Keyring with one call of KMS Decrypt, or none when the data key's key ARN does not pass
// the filter.
func (d *Discovery) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	keyARN, err := d.trusted(request.EncryptedKey)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", "", err)
	}
	key, err := d.unwrap(ctx, keyARN, request)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", keyARN, err)
	}
	return key, nil
}

const keyIDCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"

// trusted returns the ARN by which to ask for a wrapped data key.
func (d *Discovery) trusted(wrapped header.EncryptedDataKey) (string, error) {
	if wrapped.ProviderID != providerID {
		return "", provider.ErrUntrustedKey
	}
	a, err := arn.Parse(string(wrapped.ProviderInfo))
	id, isKey := strings.CutPrefix(a.Resource, "key/")
	if err != nil || a.Service != "kms" || !isKey || id == "" || strings.Trim(id, keyIDCharacters) != "" || a.Partition != d.partition || !slices.Contains(d.accounts, a.AccountID) {
		return "", provider.ErrUntrustedKey
	}
	if a.Region != d.region && !isMultiRegion(a) {
		return "", fmt.Errorf("%w: the key is in Region %q, KMS is asked in %s", provider.ErrUntrustedKey, a.Region, d.region)
	}
	a.Region = d.region
	return a.String(), nil
}

var errDiscovery = fmt.Errorf("%w: discovery only decrypts; encrypt under a key", provider.ErrKeyUsage)

// GenerateDataKey implements provider.Keyring: it fails with provider.ErrKeyUsage.
func (d *Discovery) GenerateDataKey(ctx context.Context, _ *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	return nil, fail(ctx, "GenerateDataKey", "", errDiscovery)
}

// WrapDataKey implements provider.Keyring: it fails with provider.ErrKeyUsage.
func (d *Discovery) WrapDataKey(ctx context.Context, _ *provider.SecureBytes, _ map[string]string) (header.EncryptedDataKey, error) {
	return header.EncryptedDataKey{}, fail(ctx, "WrapDataKey", "", errDiscovery)
}

var _ provider.Keyring = (*Discovery)(nil)
