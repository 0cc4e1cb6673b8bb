package service

import (
	"context"
	"fmt"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// Keyring has the telemetry and the cache of a Service, and no circuit breaker. It is for callers
// who decide by themselves when to ask a failing key service again, and for keyrings that are no
// providers. It is safe for concurrent use.
type Keyring struct {
	kind        provider.Type
	observed    observed
	cache       *cache // nil if there is none
	instruments *instruments
}

// NewKeyring wraps a keyring. Telemetry names it by kind. OnStateChange is not called, and there is
// no metric of a breaker. Close the keyring after the Keyring.
func NewKeyring(k provider.Keyring, kind provider.Type, c Config) *Keyring {
	i := newInstruments(c.Telemetry, kind, nil)
	whole := &Keyring{kind: kind, observed: observed{k, i}, instruments: i}
	if c.Cache != nil {
		whole.cache = newCache(whole.observed, *c.Cache)
		whole.cache.note = i.countCached
	}
	return whole
}

// Close zeroes the cached data keys. The Keyring goes on working without a cache.
func (k *Keyring) Close() error {
	if k.cache != nil {
		k.cache.close()
	}
	return k.instruments.close()
}

// Type implements provider.PikoV2Keyring.
func (k *Keyring) Type() provider.Type { return k.kind }

func (k *Keyring) keyring() provider.Keyring {
	if k.cache != nil {
		return k.cache
	}
	return k.observed
}

// GenerateDataKey implements provider.Keyring.
func (k *Keyring) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := k.keyring().GenerateDataKey(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	k.instruments.countEncrypted(ctx, key)
	return key, nil
}

// WrapDataKey implements provider.Keyring.
func (k *Keyring) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return k.observed.WrapDataKey(ctx, key, encryptionContext)
}

// UnwrapDataKey implements provider.Keyring.
func (k *Keyring) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := k.keyring().UnwrapDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	k.instruments.countDecrypted(ctx, key)
	return key, nil
}

// IsCurrent implements provider.VersionedKeyring, if the keyring does. Otherwise it returns false.
func (k *Keyring) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	versioned, ok := k.observed.inner.(provider.VersionedKeyring)
	if !ok {
		return false, nil
	}
	return observe(ctx, k.instruments, "IsCurrent", func(ctx context.Context) (bool, error) { return versioned.IsCurrent(ctx, request) })
}

// UnwrapPikoV2 implements provider.PikoV2Keyring, if the keyring does. Otherwise the error holds
// provider.ErrInvalidProvider.
func (k *Keyring) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	old, ok := k.observed.inner.(provider.PikoV2Keyring)
	if !ok {
		return nil, fmt.Errorf("%w: it reads nothing from before pikokms", provider.ErrInvalidProvider)
	}
	return observe(ctx, k.instruments, "UnwrapPikoV2", func(ctx context.Context) (*provider.SecureBytes, error) {
		return old.UnwrapPikoV2(ctx, wrapped)
	})
}

// UnwrapS3EC implements provider.S3ECKeyring, if the keyring does. Otherwise the error holds
// provider.ErrUntrustedKey.
func (k *Keyring) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	keyring, ok := k.observed.inner.(provider.S3ECKeyring)
	if !ok {
		return nil, provider.ErrUntrustedKey
	}
	return observe(ctx, k.instruments, "UnwrapS3EC", func(ctx context.Context) (*provider.SecureBytes, error) {
		return keyring.UnwrapS3EC(ctx, wrapped)
	})
}

// observed is a keyring whose calls are reported.
type observed struct {
	inner       provider.Keyring
	instruments *instruments
}

// observe makes a call, and reports it.
func observe[T any](ctx context.Context, i *instruments, operation string, call func(context.Context) (T, error)) (result T, err error) {
	traced, done := i.call(ctx, operation)
	verdict := errNothing // stays if the call panics
	defer func() { done(err, verdict) }()
	begin := time.Now()
	result, err = call(traced)
	verdict = judge(ctx, err, time.Since(begin))
	return result, err
}

func (o observed) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	return observe(ctx, o.instruments, "GenerateDataKey", func(ctx context.Context) (*provider.DataKey, error) {
		return o.inner.GenerateDataKey(ctx, encryptionContext)
	})
}

func (o observed) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return observe(ctx, o.instruments, "WrapDataKey", func(ctx context.Context) (header.EncryptedDataKey, error) {
		return o.inner.WrapDataKey(ctx, key, encryptionContext)
	})
}

func (o observed) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	return observe(ctx, o.instruments, "UnwrapDataKey", func(ctx context.Context) (*provider.DataKey, error) {
		return o.inner.UnwrapDataKey(ctx, request)
	})
}

// CacheScope implements provider.ScopedKeyring.
func (o observed) CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error) {
	return provider.CacheScope(ctx, o.inner, encryptionContext)
}

// CacheScope implements provider.ScopedKeyring. The scope is the keyring's.
func (k *Keyring) CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error) {
	return k.observed.CacheScope(ctx, encryptionContext)
}

var (
	_ provider.ScopedKeyring    = observed{}
	_ provider.ScopedKeyring    = (*Keyring)(nil)
	_ provider.PikoV2Keyring    = (*Keyring)(nil)
	_ provider.S3ECKeyring      = (*Keyring)(nil)
	_ provider.VersionedKeyring = (*Keyring)(nil)
)
