// Package service makes a provider fit for production. It adds a circuit breaker, which refuses
// calls at once while the key service is down, an optional cache of data keys, and batches under
// one data key.
//
// It stands between a provider and its user, and is a provider itself:
//
//	message, host, application ── Service: cache → breaker ── provider ── key service
//
// A Keyring has the cache and the telemetry, and no breaker.
package service

import (
	"context"
	"encoding/base64"

	"github.com/sony/gobreaker/v2"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Config configures a Service. The zero Config has a circuit breaker and no cache.
type Config struct {
	Cache *CacheLimits // limits of the data-key cache; nil means no cache

	// OnStateChange, if not nil, is called when the breaker's state changes. It must not call the
	// Service.
	OnStateChange func(from, to State)

	Telemetry Telemetry
}

// Service implements provider.EncryptionProvider on another one. It is safe for concurrent use.
type Service struct {
	inner       provider.EncryptionProvider
	breaker     *gobreaker.CircuitBreaker[any]
	cache       *cache // nil if there is none
	instruments *instruments

	inside provider.Guard // the breaker, if it stands inside the provider; otherwise nil
}

// New wraps a provider. Close the provider after the Service.
func New(p provider.EncryptionProvider, c Config) *Service {
	s := &Service{inner: p}
	s.breaker = newBreaker(func(from, to State) {
		if c.Telemetry.Logger != nil {
			c.Telemetry.Logger.Warn("circuit breaker of the key service", "provider", p.Type(), "from", from.String(), "to", to.String())
		}
		if c.OnStateChange != nil {
			c.OnStateChange(from, to)
		}
	})
	s.instruments = newInstruments(c.Telemetry, s.Type(), s.State)
	if _, ok := p.(provider.Guarded); ok {
		s.inside = func(ctx context.Context, operation string, call func(context.Context) error) error {
			_, err := pass(ctx, s, operation, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
			return err
		}
	}
	if c.Cache != nil {
		s.cache = newCache(broken{s}, *c.Cache)
		s.cache.note = s.instruments.countCached
	}
	return s
}

// Close zeroes the cached data keys and ends the metric of the breaker's state. The Service goes on
// working without a cache.
func (s *Service) Close() error {
	if s.cache != nil {
		s.cache.close()
	}
	return s.instruments.close()
}

// keyring returns the keyring that data keys come from: the cache if there is one.
func (s *Service) keyring() provider.Keyring {
	if s.cache != nil {
		return s.cache
	}
	return broken{s}
}

// Type implements provider.EncryptionProvider.
func (s *Service) Type() provider.Type { return s.inner.Type() }

// GenerateDataKey implements provider.Keyring.
func (s *Service) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	key, err := s.keyring().GenerateDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	s.instruments.countEncrypted(ctx, key)
	return key, nil
}

// UnwrapDataKey implements provider.Keyring.
func (s *Service) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	key, err := s.keyring().UnwrapDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	s.instruments.countDecrypted(ctx, request)
	return key, nil
}

// Encrypt implements provider.EncryptionProvider.
func (s *Service) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	return guard(ctx, s, "Encrypt", func(ctx context.Context) (*provider.EncryptResponse, error) { return s.inner.Encrypt(ctx, request) })
}

// Decrypt implements provider.EncryptionProvider. If the value is under a data key, that may come
// from the cache.
func (s *Service) Decrypt(ctx context.Context, request *provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if ciphertext, err := base64.StdEncoding.DecodeString(request.Ciphertext); err == nil && request.KeyID == "" && header.Sniff(ciphertext) {
		plaintext, err := message.DecryptText(ctx, s, ciphertext, request)
		if err != nil {
			return nil, err
		}
		return &provider.DecryptResponse{Plaintext: plaintext}, nil
	}
	return guard(ctx, s, "Decrypt", func(ctx context.Context) (*provider.DecryptResponse, error) { return s.inner.Decrypt(ctx, request) })
}

// GetKeyInfo implements provider.EncryptionProvider.
func (s *Service) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	return guard(ctx, s, "GetKeyInfo", func(ctx context.Context) (*provider.KeyInfo, error) { return s.inner.GetKeyInfo(ctx, keyID) })
}

// HealthCheck implements provider.EncryptionProvider. It asks the key service, whatever is cached,
// unless the breaker is open.
func (s *Service) HealthCheck(ctx context.Context) error {
	_, err := guard(ctx, s, "HealthCheck", func(ctx context.Context) (struct{}, error) { return struct{}{}, s.inner.HealthCheck(ctx) })
	return err
}

var (
	_ provider.EncryptionProvider = (*Service)(nil)
	_ provider.VersionedKeyring   = (*Service)(nil)
)
