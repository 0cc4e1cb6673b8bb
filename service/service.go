// Package service makes a provider fit for production. It adds a circuit breaker, which refuses
// calls at once while the key service is down, an optional cache of data keys, and batches under
// one data key.
//
// It stands between a provider and its user, and is a provider itself:
//
//	message, host, application ── Service: cache → breaker ── provider ── key service
//
// With Config.NoBreaker it has the cache and the telemetry alone.
package service

import (
	"context"
	"fmt"

	"github.com/sony/gobreaker/v2"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// Config configures a Service. The zero Config has a circuit breaker and no cache.
type Config struct {
	Cache *CacheLimits // limits of the data-key cache; nil means no cache

	// NoBreaker leaves the circuit breaker out, for callers who decide by themselves when to ask a
	// failing key service again. There is no metric of it then.
	NoBreaker bool

	Telemetry Telemetry
}

// Service is a provider on another one. It is safe for concurrent use.
type Service struct {
	inner       provider.EncryptionProvider
	breaker     *gobreaker.CircuitBreaker[any] // nil if there is none
	cache       *cache                         // nil if there is none
	instruments *instruments

	inside bool // the breaker stands inside the provider, a provider.Guarded
}

// New wraps a provider. Close the provider after the Service.
func New(p provider.EncryptionProvider, c Config) *Service {
	s, state := new(Service), (func() State)(nil)
	if !c.NoBreaker {
		s.breaker, state = breakerOf(p, c), s.State
	}
	s.instruments = newInstruments(c.Telemetry, p.Type(), state)
	s.protect(p)
	if c.Cache != nil {
		s.cache = newCache(broken{s}, *c.Cache)
		s.cache.note = s.instruments.countCached
	}
	return s
}

// breakerOf returns the circuit breaker of a provider.
func breakerOf(p provider.EncryptionProvider, c Config) *gobreaker.CircuitBreaker[any] {
	return newBreaker(func(from, to State) {
		if c.Telemetry.Logger != nil {
			c.Telemetry.Logger.Warn("circuit breaker of the key service", "provider", p.Type(), "from", from.String(), "to", to.String())
		}
	})
}

// protect puts the breaker in front of a provider, or within it if it is a provider.Guarded.
func (s *Service) protect(p provider.EncryptionProvider) {
	g, inside := p.(provider.Guarded)
	if s.inner, s.inside = p, inside && s.breaker != nil; s.inside {
		s.inner = g.Guarded(func(ctx context.Context, operation string, call func(context.Context) error) error {
			_, err := pass(ctx, s, operation, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
			return err
		})
	}
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

// Type returns the provider's.
func (s *Service) Type() provider.Type { return s.inner.Type() }

// GenerateDataKey takes the data key from the cache, or makes one call of the key service.
func (s *Service) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := s.keyring().GenerateDataKey(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	s.instruments.countEncrypted(ctx, key)
	return key, nil
}

// UnwrapDataKey takes the data key from the cache, or makes one call of the key service.
func (s *Service) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := s.keyring().UnwrapDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	s.instruments.countDecrypted(ctx, key)
	return key, nil
}

// KeyID returns the provider's, or nothing if it has none.
func (s *Service) KeyID() string {
	if named, ok := s.inner.(interface{ KeyID() string }); ok {
		return named.KeyID()
	}
	return ""
}

// With returns a Service on another provider of the same key service. It has the breaker and the
// telemetry of s, and no cache. It is not to be closed.
func (s *Service) With(p provider.EncryptionProvider) *Service {
	other := *s
	other.cache = nil
	other.protect(p)
	return &other
}

// Call makes a call of the key service through the circuit breaker, with telemetry that names the
// operation.
func (s *Service) Call(ctx context.Context, operation string, call func(context.Context) error) error {
	_, err := guard(ctx, s, operation, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

// EncryptsDirectly is true if the provider is a provider.DirectEncrypter of which it is true.
func (s *Service) EncryptsDirectly() bool {
	d, ok := s.inner.(provider.DirectEncrypter)
	return ok && d.EncryptsDirectly()
}

// EncryptDirectly makes one call of the key service. The result is nil if the provider is no
// provider.DirectEncrypter.
func (s *Service) EncryptDirectly(ctx context.Context, value []byte, encryptionContext map[string]string) (*provider.DirectValue, error) {
	d, ok := s.inner.(provider.DirectEncrypter)
	if !ok {
		return nil, nil
	}
	return guard(ctx, s, "Encrypt", func(ctx context.Context) (*provider.DirectValue, error) {
		return d.EncryptDirectly(ctx, value, encryptionContext)
	})
}

// DecryptDirectly is the provider's, behind the circuit breaker. The error holds
// provider.ErrInvalidCiphertext if the provider is no provider.DirectEncrypter.
func (s *Service) DecryptDirectly(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	d, ok := s.inner.(provider.DirectEncrypter)
	if !ok {
		return nil, fmt.Errorf("%w: %w, and provider %s encrypts no values itself", provider.ErrInvalidCiphertext, header.ErrNotMessage, s.Type())
	}
	return guard(ctx, s, "Decrypt", func(ctx context.Context) ([]byte, error) {
		return d.DecryptDirectly(ctx, ciphertext, encryptionContext)
	})
}

// HealthCheck is provider.Check of the provider. It asks the key service, whatever is cached,
// unless the breaker is open.
func (s *Service) HealthCheck(ctx context.Context) error {
	return s.Call(ctx, "HealthCheck", func(ctx context.Context) error { return provider.Check(ctx, s.inner) })
}

var (
	_ provider.DirectEncrypter  = (*Service)(nil)
	_ provider.VersionedKeyring = (*Service)(nil)
	_ provider.HealthChecker    = (*Service)(nil)
)
