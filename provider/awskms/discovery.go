package awskms

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// discovery is the keyring of NewDiscovery.
type discovery struct {
	service
	accounts arns.Accounts
}

// NewDiscovery returns what decrypts messages under any symmetric KMS key of Config.Accounts, and
// encrypts nothing. It need not know the key beforehand (specification:
// framework/aws-kms/aws-kms-mrk-discovery-keyring.md). It asks KMS in one Region: about keys of
// that Region, and about multi-Region keys of others by their replica in it. It makes one call of
// KMS Decrypt for a data key, or none if the wrapping key is not one of the stated accounts.
//
// NewDiscovery asks neither KMS nor a source of credentials. The error holds
// provider.ErrInvalidKey.
func NewDiscovery(ctx context.Context, c Config) (provider.Unwrapper, error) {
	if err := c.validateDiscovery(); err != nil {
		return nil, err
	}
	loaded, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &discovery{loaded, arns.Accounts{IDs: slices.Clone(c.Accounts), Partition: c.Partition, Region: loaded.region()}}, nil
}

func (c *Config) validateDiscovery() error {
	if err := cmp.Or(c.refuseProviderFields(), c.validateConnection()); err != nil {
		return err
	}
	if c.KeyID != "" || len(c.TrustedKeys) > 0 || c.MultiRegion {
		return fmt.Errorf("%w: discovery takes Accounts, and neither KeyID, TrustedKeys nor MultiRegion", provider.ErrInvalidKey)
	}
	if len(c.Accounts) == 0 {
		return fmt.Errorf("%w: discovery needs the accounts whose keys to trust", provider.ErrInvalidKey)
	}
	accounts := arns.Accounts{IDs: c.Accounts}
	return accounts.Check()
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

// trusted returns the ARN under which to ask KMS for a wrapped data key.
func (d *discovery) trusted(wrapped header.EncryptedDataKey) (string, error) {
	if wrapped.ProviderID != providerID {
		return "", provider.ErrUntrustedKey
	}
	return d.accounts.Trusts(string(wrapped.ProviderInfo))
}
