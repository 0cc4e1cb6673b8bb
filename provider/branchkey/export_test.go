package branchkey

import (
	"context"
	"errors"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// What tests need beyond the exported API: tables and KMS that they make, change and look into.
type (
	Table    = table
	Item     = tableItem
	Write    = tableWrite
	KMS      = kms
	Provider = branchProvider
)

var (
	ErrRefused          = errRefused
	ErrHierarchyVersion = errHierarchyVersion
	ErrIncomplete       = errIncomplete
	ErrNotDisabled      = errNotDisabled
)

func NewFile(path string) Table { return newFile(path) }

func NewDynamoDB(ctx context.Context, c Config) (Table, error) { return newDynamoDB(ctx, &c) }

func NewLocalKMS(masters ...local.Config) (*localKMS, error) { return newLocalKMS(masters) }

// StoreOf returns a Store on a table.
func StoreOf(t Table, keys KMS, logicalName string) *Store { return newStore(t, keys, logicalName) }

// ProviderOf makes a provider on a Store.
func ProviderOf(ctx context.Context, s *Store, c Config) (*Provider, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	p := newProvider(s, c, nil)
	if c.CheckLater {
		return p, nil
	}
	if err := p.check(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

var _ provider.Provider = (*Provider)(nil)
