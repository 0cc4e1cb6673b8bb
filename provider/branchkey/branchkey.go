// Package branchkey is the encryption provider on branch keys: AWS's hierarchical keyring
// (specification: framework/aws-kms/aws-kms-hierarchical-keyring.md) and its key store
// (framework/branch-key-store.md).
//
// A branch key is a random key that KMS wraps and that a table keeps. A process fetches it once per
// TTL and holds it in locked memory. Under it, the process itself wraps a new data key for each
// message, without a call:
//
//	KMS key ── wraps ── branch key, in a table ── wraps ── data key, in a message ── encrypts ── frames
//
// So the calls of KMS do not grow with the number of messages. Each tenant can have a branch key of
// its own, which a [Supplier] picks by a message's encryption context. To change the KMS key,
// [Store.Move] wraps the branch keys anew. Messages stay as they are.
//
// Every official AWS library with the hierarchical keyring opens the messages and uses the table,
// and this package opens theirs and uses their tables.
//
// # Permissions
//
// Reading and writing messages needs dynamodb:GetItem on the table, and kms:Decrypt. Making
// branch keys and versions needs dynamodb:GetItem, dynamodb:PutItem,
// kms:GenerateDataKeyWithoutPlaintext and kms:ReEncrypt*. Moving and checking needs dynamodb:Query,
// dynamodb:PutItem and kms:ReEncrypt*. Disabling, enabling and destroying needs dynamodb:GetItem,
// dynamodb:Query and dynamodb:PutItem, and nothing of KMS. Listing needs dynamodb:Scan. No
// administrator needs kms:Decrypt.
//
// # Shredding
//
// [Store.Disable] makes a branch key unusable, [Store.Enable] takes that back, and [Store.Destroy]
// makes it final after a waiting period. For a branch key that is disabled or destroyed, errors
// hold [ErrDisabled] or [ErrDestroyed]. A process notices at the latest when its TTL has passed.
// Once it has noticed that a branch key is destroyed, it refuses that branch key as long as it
// runs, whatever is put back into the table.
//
// # Errors
//
// An error holds one of this package's errors, or one of those of package provider that package
// awskms lists. That goes for errors of DynamoDB, too: [provider.ErrProviderUnavailable] and
// [provider.ErrAccessDenied] mean either of the two services, and [provider.ErrKeyNotFound] also
// means a branch key, a version or a table that does not exist.
package branchkey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// typeBranchKey is the type of this package's providers.
const typeBranchKey provider.Type = "branch_key"

// defaultEntries is the number of branch keys that a provider caches by default (specification:
// framework/aws-kms/aws-kms-hierarchical-keyring.md, "Initialization").
const defaultEntries = 1000

// Supplier returns the ID of the branch key of a message with an encryption context, or nothing for
// the configured one. It is called for each message, to encrypt and to decrypt, with all pairs of
// its encryption context, even if a cache has the message's data key. It may take a tenant from
// ctx. It must be safe for concurrent use.
type Supplier func(ctx context.Context, encryptionContext map[string]string) (string, error)

// ByPair returns a Supplier for which the value of one pair of the encryption context is the branch
// key ID. So every tenant has its own branch key, if the pair states the tenant.
func ByPair(name string) Supplier {
	return func(_ context.Context, encryptionContext map[string]string) (string, error) {
		return encryptionContext[name], nil
	}
}

// branchProvider wraps data keys under branch keys.
type branchProvider struct {
	store    *Store
	id       string
	supplier Supplier
	cache    *cache
	guard    provider.Guard // may be nil
}

// NewProvider makes a provider that wraps data keys under branch keys. It asks for the configured
// branch key, if there is one, which is then cached. The provider is also a provider.Guarded, a
// provider.HealthChecker and a provider.ScopedKeyring. Its KeyID is the ID of the configured branch
// key, or nothing if a Supplier picks all. The caller closes the provider, which zeroes the cached
// branch keys.
//
// GetKeyInfo describes any branch key of the table, and calls the table only. IsCurrent is true
// under the active version of a branch key. The cached one counts as the active one until its TTL
// has passed. HealthCheck asks the table and KMS for the configured branch key, whether it is
// cached or not. Without one, it asks the table for a branch key with the ID "health check", which
// need not exist. A policy that lists the permitted IDs must include this one.
//
// The result of the provider's Guarded shares the cache: closing one closes both.
//
// The error holds one of those that the package documentation names.
func NewProvider(ctx context.Context, c Config) (provider.Provider, error) {
	p, err := openProvider(ctx, c, nil)
	if err != nil {
		return nil, err // p would be a provider.Provider that holds a nil pointer, and not nil
	}
	return p, nil
}

// openProvider makes a provider. If guard is not nil, all calls of KMS and the table go through it,
// including the one that asks for the configured branch key.
func openProvider(ctx context.Context, c Config, guard provider.Guard) (*branchProvider, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	store, err := NewStore(ctx, c)
	if err != nil {
		return nil, err
	}
	p := newProvider(store, c, guard)
	if c.CheckLater {
		return p, nil
	}
	if err := p.check(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func newProvider(store *Store, c Config, guard provider.Guard) *branchProvider {
	return &branchProvider{
		store: store, id: c.BranchKeyID, supplier: c.Supplier, guard: guard,
		cache: newCache(c.TTL, cmp.Or(c.Entries, defaultEntries)),
	}
}

// check asks for the configured branch key, if there is one.
func (p *branchProvider) check(ctx context.Context) error {
	if p.id == "" {
		return nil
	}
	m, err := p.active(ctx, p.id)
	if err != nil {
		return fail(ctx, "NewProvider", p.id, err)
	}
	return m.key.Close()
}

// Close implements provider.Provider. It zeroes the cached branch keys, and closes the Store.
func (p *branchProvider) Close() error {
	p.cache.close()
	return p.store.Close()
}

func (p *branchProvider) Type() provider.Type { return typeBranchKey }

func (p *branchProvider) KeyID() string { return p.id }

// Guarded implements provider.Guarded, for the calls of KMS and the table. The two providers share
// the cache, and closing one closes both.
func (p *branchProvider) Guarded(guard provider.Guard) provider.EncryptionProvider {
	other := *p
	other.guard = guard
	return &other
}

// call makes a call of KMS or the table, through the guard if there is one.
func (p *branchProvider) call(ctx context.Context, operation string, call func(context.Context) error) error {
	if p.guard == nil {
		return call(ctx)
	}
	return p.guard(ctx, operation, call)
}

// pick returns the ID of the branch key of a message.
func (p *branchProvider) pick(ctx context.Context, encryptionContext map[string]string) (string, error) {
	id := ""
	if p.supplier != nil {
		var err error
		if id, err = p.supplier(ctx, encryptionContext); err != nil {
			return "", fmt.Errorf("picking the branch key: %w", err)
		}
	}
	if id = cmp.Or(id, p.id); id == "" {
		return "", fmt.Errorf("%w: no branch key belongs to this encryption context: the Supplier returned no ID, and there is no BranchKeyID", provider.ErrKeyNotFound)
	}
	return id, nil
}

// active returns the active version of a branch key. The caller closes its key.
func (p *branchProvider) active(ctx context.Context, id string) (*material, error) {
	m, err := p.cache.get(ctx, slot{id: id}, func(ctx context.Context) (*material, error) { return p.ask(ctx, id) })
	if isUnusable(err) {
		p.cache.drop(id)
	}
	return m, err
}

// isUnusable reports whether an error means that a branch key is disabled or destroyed.
func isUnusable(err error) bool { return errors.Is(err, ErrDisabled) || errors.Is(err, ErrDestroyed) }

// version returns a version of a branch key. The caller closes its key. If it is the active
// version, one request serves to encrypt and to decrypt.
func (p *branchProvider) version(ctx context.Context, id string, version uuid.UUID) (*material, error) {
	if active, known := p.store.newest.activeVersion(id); known && active == version {
		m, err := p.active(ctx, id)
		if err == nil && m.version == version {
			return m, nil
		}
		if err == nil {
			err = m.key.Close()
		}
		if ctx.Err() != nil || errors.Is(err, provider.ErrProviderUnavailable) || isUnusable(err) {
			return nil, err
		}
		// Whatever else is wrong with the active item, the version has an item of its own.
	}
	m, err := p.cache.get(ctx, slot{id, version}, func(ctx context.Context) (*material, error) { return p.askVersion(ctx, id, version) })
	if isUnusable(err) {
		p.cache.drop(id)
	}
	return m, err
}

// ask gets the active version of a branch key from the table and KMS.
func (p *branchProvider) ask(ctx context.Context, id string) (m *material, err error) {
	err = p.call(ctx, "GetBranchKey", func(ctx context.Context) error {
		r, err := p.store.get(ctx, id, kindActive)
		if err == nil {
			m, err = p.open(ctx, r)
		}
		return err
	})
	return m, err
}

// askVersion gets a version of a branch key from the table and KMS. The first time that the process
// needs a branch key, it looks at the active item first. If that has the version, it serves to
// encrypt, too.
func (p *branchProvider) askVersion(ctx context.Context, id string, version uuid.UUID) (m *material, err error) {
	err = p.call(ctx, "GetBranchKey", func(ctx context.Context) error {
		if _, known := p.store.newest.activeVersion(id); !known {
			r, err := p.store.get(ctx, id, kindActive)
			if err == nil {
				p.store.newest.noteActive(r)
				if r.version == version {
					m, err = p.open(ctx, r)
				}
			}
			if m != nil || ctx.Err() != nil || errors.Is(err, provider.ErrProviderUnavailable) || isUnusable(err) {
				return err
			}
		}
		r, err := p.store.get(ctx, id, kindVersion+version.String())
		if err == nil {
			m, err = p.open(ctx, r)
		}
		return err
	})
	return m, err
}

// open asks KMS for the branch key of an item. An active version must not be older than one that
// the process has seen.
func (p *branchProvider) open(ctx context.Context, r *record) (*material, error) {
	key, err := p.store.unwrap(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := p.store.newest.admit(r); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	if r.kind == kindActive {
		p.store.newest.noteActive(r)
	}
	return &material{r.version, r.kind == kindActive, key}, nil
}

// CacheScope returns the branch key's ID, which the Supplier may pick by ctx.
func (p *branchProvider) CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error) {
	id, err := p.pick(ctx, encryptionContext)
	return id, fail(ctx, "CacheScope", p.id, err)
}

// GenerateDataKey makes a data key from the system's random numbers. It calls KMS if the branch key
// is not cached.
func (p *branchProvider) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	id, err := p.pick(ctx, encryptionContext)
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", id, err)
	}
	key, err := provider.RandomKey(provider.DataKeySize)
	if err != nil {
		return nil, fail(ctx, "GenerateDataKey", id, err)
	}
	wrapped, err := p.wrap(ctx, id, key, encryptionContext)
	if err != nil {
		return nil, errors.Join(fail(ctx, "GenerateDataKey", id, err), key.Close())
	}
	return &provider.DataKey{PlaintextKey: key, EncryptedKey: wrapped, KeyID: id}, nil
}

// WrapDataKey calls KMS if the branch key is not cached.
func (p *branchProvider) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	id, err := p.pick(ctx, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, fail(ctx, "WrapDataKey", id, err)
	}
	wrapped, err := p.wrap(ctx, id, key, encryptionContext)
	if err != nil {
		return header.EncryptedDataKey{}, fail(ctx, "WrapDataKey", id, err)
	}
	return wrapped, nil
}

func (p *branchProvider) wrap(ctx context.Context, id string, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	wrapped := header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(id)}
	m, err := p.active(ctx, id)
	if err != nil {
		return wrapped, err
	}
	defer m.key.Close()
	err = key.WithAccess(func(plain []byte) (err error) {
		wrapped.Ciphertext, err = seal(m.key, id, m.version, plain, encryptionContext)
		return err
	})
	return wrapped, err
}

// UnwrapDataKey calls KMS if the version of the branch key is not cached. If the message is not
// under the branch key to which its encryption context belongs, UnwrapDataKey asks nothing, and the
// error holds provider.ErrUntrustedKey.
func (p *branchProvider) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	k := request.EncryptedKey
	if k.ProviderID != providerID {
		return nil, fail(ctx, "UnwrapDataKey", p.id, provider.ErrUntrustedKey)
	}
	id, err := p.pick(ctx, request.Context)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", p.id, err)
	}
	if string(k.ProviderInfo) != id {
		return nil, fail(ctx, "UnwrapDataKey", id, fmt.Errorf("%w: it is under branch key %.80q, and its encryption context belongs to %q", provider.ErrUntrustedKey, k.ProviderInfo, id))
	}
	key, err := p.unwrap(ctx, id, request)
	if err != nil {
		return nil, fail(ctx, "UnwrapDataKey", id, err)
	}
	return &provider.DataKey{PlaintextKey: key}, nil
}

func (p *branchProvider) unwrap(ctx context.Context, id string, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	if request.Size <= 0 || request.Size > math.MaxUint8 {
		return nil, fmt.Errorf("%w: no data key has %d bytes", provider.ErrDecryptionFailed, request.Size)
	}
	w, err := parseWrapped(request.EncryptedKey.Ciphertext, request.Size)
	if err != nil {
		return nil, err
	}
	m, err := p.version(ctx, id, w.version)
	if err != nil {
		return nil, err
	}
	defer m.key.Close()
	plain, err := w.open(m.key, id, request.Context)
	if err != nil {
		return nil, err
	}
	return provider.NewSecureBytes(plain)
}

// IsCurrent is true for a data key under the active version of its branch key. It calls KMS if that
// is not cached. If another process makes a new version, the cached one counts as the active one
// until its TTL has passed.
func (p *branchProvider) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	k := request.EncryptedKey
	if k.ProviderID != providerID {
		return false, nil
	}
	id, err := p.pick(ctx, request.Context)
	if err != nil {
		return false, fail(ctx, "IsCurrent", p.id, err)
	}
	if string(k.ProviderInfo) != id {
		return false, nil
	}
	w, err := parseWrapped(k.Ciphertext, request.Size)
	if err != nil {
		return false, fail(ctx, "IsCurrent", id, err)
	}
	m, err := p.active(ctx, id)
	if err != nil {
		return false, fail(ctx, "IsCurrent", id, err)
	}
	return w.version == m.version, m.key.Close()
}

// GetKeyInfo describes a branch key of the table: the configured one if keyID is empty, or any
// other. It asks the table only.
func (p *branchProvider) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	id := cmp.Or(keyID, p.id)
	if id == "" {
		return nil, fail(ctx, "GetKeyInfo", "", fmt.Errorf("%w: a Supplier picks the branch keys; name one", provider.ErrKeyNotFound))
	}
	var r *record
	err := p.call(ctx, "GetKeyInfo", func(ctx context.Context) (err error) {
		r, err = p.store.find(ctx, id, kindActive)
		return err
	})
	if err != nil {
		return nil, fail(ctx, "GetKeyInfo", id, err)
	}
	return &provider.KeyInfo{
		KeyID:     id,
		Algorithm: "AES-256-GCM",
		Err:       r.check(),
		CreatedAt: r.created,
		Origin:    "BRANCH_KEY",
		Metadata: map[string]string{
			"version": r.version.String(), "kms_key": r.keyARN,
			"table": p.store.table.Name(), "logical_name": p.store.logicalName,
		},
	}, nil
}

// HealthCheck implements provider.HealthChecker. It asks the table and KMS for the configured
// branch key, whether it is cached or not. If a Supplier picks all branch keys, it asks the table
// for one with the ID "health check". Any answer shows that the table is up.
func (p *branchProvider) HealthCheck(ctx context.Context) error {
	if p.id == "" {
		err := p.call(ctx, "HealthCheck", func(ctx context.Context) error {
			_, err := p.store.table.Get(ctx, "health check", kindActive)
			return err
		})
		if errors.Is(err, provider.ErrKeyNotFound) && !errors.Is(err, ErrNoTable) {
			err = nil
		}
		return fail(ctx, "HealthCheck", "", err)
	}
	m, err := p.ask(ctx, p.id)
	if err == nil {
		err = m.key.Close()
	}
	return fail(ctx, "HealthCheck", p.id, err)
}

// fail returns the error of an operation under a branch key. If the caller's context has ended,
// that is the reason. Without an error it returns nil.
func fail(ctx context.Context, operation, id string, err error) error {
	if err == nil {
		return nil
	}
	// The operation that the caller asked for replaces an inner one.
	if inner, ok := err.(*provider.EncryptionError); ok && inner.Provider == string(typeBranchKey) {
		err = inner.Err
	}
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w: %w", ended, err)
	}
	return &provider.EncryptionError{Operation: operation, Provider: string(typeBranchKey), KeyID: id, Err: err}
}

var (
	_ provider.Provider      = (*branchProvider)(nil)
	_ provider.Guarded       = (*branchProvider)(nil)
	_ provider.HealthChecker = (*branchProvider)(nil)
	_ provider.ScopedKeyring = (*branchProvider)(nil)
)
