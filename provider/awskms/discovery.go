package awskms

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// defaultPartition is the partition of all Regions except those of China, GovCloud and other
// separate ones.
const defaultPartition = "aws"

// discovery is the keyring of NewDiscovery.
type discovery struct {
	service
	accounts  []string
	partition string
	region    string
}

// NewDiscovery returns a keyring that decrypts messages under any symmetric KMS key of
// Config.Accounts. It need not know the key beforehand (specification:
// framework/aws-kms/aws-kms-mrk-discovery-keyring.md). It asks KMS in one Region: about keys of
// that Region, and about multi-Region keys of others by their replica in it. It makes one call of
// KMS Decrypt for a data key, or none if the wrapping key is not one of the stated accounts.
//
// NewDiscovery asks neither KMS nor a source of credentials. The error holds
// provider.ErrInvalidKey.
func NewDiscovery(ctx context.Context, c Config) (provider.Unwrapper, error) {
	d, err := newDiscovery(ctx, c)
	if err != nil {
		return nil, err // d would be an Unwrapper that holds a nil pointer, and not nil
	}
	return d, nil
}

func newDiscovery(ctx context.Context, c Config) (*discovery, error) {
	if err := c.validateDiscovery(); err != nil {
		return nil, err
	}
	loaded, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &discovery{
		service: loaded, accounts: slices.Clone(c.Accounts),
		partition: cmp.Or(c.Partition, defaultPartition), region: loaded.region(),
	}, nil
}

func (c *Config) validateDiscovery() error {
	if err := cmp.Or(c.forProvider(), c.validateConnection()); err != nil {
		return err
	}
	if c.KeyID != "" || len(c.TrustedKeys) > 0 || c.MultiRegion {
		return fmt.Errorf("%w: discovery takes Accounts, and neither KeyID, TrustedKeys nor MultiRegion", provider.ErrInvalidKey)
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
