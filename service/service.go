// Package service makes a provider fit for production. It adds a circuit breaker, which refuses
// calls at once while the key service is down, an optional cache of data keys, and batches under
// one data key.
//
// It stands between a provider and its user, and is a provider itself:
//
//	message, host, application ── Service: cache → breaker ── provider ── key service
//
// With Config.NoBreaker it has the cache and the telemetry alone.
//
// The circuit breaker opens after five outages in a row. After 30 seconds it lets one trial call
// through, and closes if the key service answers. The deadline of a caller's context that ends a
// call counts as an outage if the caller has waited for three seconds.
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

// Service is a provider on another one. Its calls of the key service pass the circuit breaker, and
// its data keys may come from the cache. A Service is safe for concurrent use.
//
// It passes the methods of these interfaces on to the other provider. If that does not have one,
// the answer is false or empty, or the error holds provider.ErrInvalidProvider,
// provider.ErrUntrustedKey for UnwrapS3EC, or provider.ErrInvalidCiphertext for DecryptDirectly.
// HealthCheck is then provider.Check. A Service is no provider.KeySelector: make one for another
// key by With and the other provider's Under. KeyID is empty if the other provider is no
// provider.Provider. Close zeroes the cached data keys, and closes nothing else: the Service goes
// on working without a cache.
type Service interface {
	provider.Provider
	provider.HealthChecker
	provider.ReEncrypter
	provider.PikoV2Keyring
	provider.S3ECKeyring
	provider.ScopedKeyring

	// EncryptBatch encrypts strings under one data key and returns Piko's string envelopes. It
	// makes one call of the key service, or none if the cache has a data key with uses left. If the
	// strings reach a limit of the cache, it makes one more for each data key that they use up.
	// Each result can also be decrypted alone, by pikokms.Host.Decrypt.
	//
	// If there is no data key, there are no results, and the error is the provider's. If items
	// fail, the error is a *BatchError, and their results are empty.
	EncryptBatch(ctx context.Context, plaintexts []string, encryptionContext map[string]string) ([]string, error)

	// DecryptBatch decrypts results of EncryptBatch, and other envelopes of the same type. It calls
	// the key service once for each data key that is not cached. A string without a data key takes
	// a call of its own. At most concurrency calls are made at once, and one if concurrency is
	// less than 1.
	//
	// If items fail, the error is a *BatchError, and their results are empty.
	DecryptBatch(ctx context.Context, texts []string, encryptionContext map[string]string, concurrency int) ([]string, error)

	// State returns the breaker's state. Without a breaker, it is StateClosed.
	State() State

	// With returns a Service on another provider of the same key service. It has the breaker and
	// the telemetry of this one, and no cache. It is not to be closed.
	With(p provider.EncryptionProvider) Service
}

// guarded is the Service of New.
type guarded struct {
	inner       provider.EncryptionProvider
	breaker     *gobreaker.CircuitBreaker[any] // nil if there is none
	cache       *cache                         // nil if there is none
	instruments *instruments

	inside bool // whether the breaker is inside the provider, a provider.Guarded
}

// New returns a Service on a provider. Close the provider after the Service, which zeroes the
// cached data keys and ends the metric of the breaker's state.
func New(p provider.EncryptionProvider, c Config) Service {
	s, state := new(guarded), (func() State)(nil)
	if !c.NoBreaker {
		s.breaker, state = breakerOf(p, c), s.State
	}
	s.instruments = newInstruments(c.Telemetry, p.Type(), state)
	s.protect(p)
	if c.Cache != nil {
		s.cache = newCache(uncached{s}, *c.Cache)
		s.cache.onRequest = s.instruments.countCached
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
func (s *guarded) protect(p provider.EncryptionProvider) {
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
func (s *guarded) Close() error {
	if s.cache != nil {
		s.cache.close()
	}
	return s.instruments.close()
}

// keyring returns the keyring that data keys come from: the cache if there is one.
func (s *guarded) keyring() provider.Keyring {
	if s.cache != nil {
		return s.cache
	}
	return uncached{s}
}

// Type returns the provider's.
func (s *guarded) Type() provider.Type { return s.inner.Type() }

// GenerateDataKey takes the data key from the cache, or makes one call of the key service.
func (s *guarded) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := s.keyring().GenerateDataKey(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	s.instruments.countEncrypted(ctx, key)
	return key, nil
}

// UnwrapDataKey takes the data key from the cache, or makes one call of the key service.
func (s *guarded) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := s.keyring().UnwrapDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	s.instruments.countDecrypted(ctx, key)
	return key, nil
}

// KeyID returns the provider's, or nothing if it has none.
func (s *guarded) KeyID() string {
	if named, ok := s.inner.(interface{ KeyID() string }); ok {
		return named.KeyID()
	}
	return ""
}

func (s *guarded) With(p provider.EncryptionProvider) Service {
	other := *s
	other.cache = nil
	other.protect(p)
	return &other
}

// call makes a call of the key service through the circuit breaker, with telemetry that names the
// operation.
func (s *guarded) call(ctx context.Context, operation string, call func(context.Context) error) error {
	_, err := guard(ctx, s, operation, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

// EncryptsDirectly returns the provider's result, or false if it is no provider.DirectEncrypter.
func (s *guarded) EncryptsDirectly() bool {
	d, ok := s.inner.(provider.DirectEncrypter)
	return ok && d.EncryptsDirectly()
}

// EncryptDirectly makes one call of the key service. The ciphertext is nil if the provider is no
// provider.DirectEncrypter.
func (s *guarded) EncryptDirectly(ctx context.Context, value []byte, encryptionContext map[string]string) (ciphertext []byte, keyID string, err error) {
	d, ok := s.inner.(provider.DirectEncrypter)
	if !ok {
		return nil, "", nil
	}
	err = s.call(ctx, "Encrypt", func(ctx context.Context) (err error) {
		ciphertext, keyID, err = d.EncryptDirectly(ctx, value, encryptionContext)
		return err
	})
	return ciphertext, keyID, err
}

// DecryptDirectly is the provider's, behind the circuit breaker. The error holds
// provider.ErrInvalidCiphertext if the provider is no provider.DirectEncrypter.
func (s *guarded) DecryptDirectly(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
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
func (s *guarded) HealthCheck(ctx context.Context) error {
	return s.call(ctx, "HealthCheck", func(ctx context.Context) error { return provider.Check(ctx, s.inner) })
}

// GetKeyInfo is the provider's, behind the circuit breaker.
func (s *guarded) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	p, ok := s.inner.(interface {
		GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error)
	})
	if !ok {
		return nil, fmt.Errorf("%w: provider %s describes no keys", provider.ErrInvalidProvider, s.Type())
	}
	return guard(ctx, s, "GetKeyInfo", func(ctx context.Context) (*provider.KeyInfo, error) { return p.GetKeyInfo(ctx, keyID) })
}

// innermost returns the provider behind a Service, or a provider that is none.
func innermost(p provider.EncryptionProvider) provider.EncryptionProvider {
	for {
		s, ok := p.(*guarded)
		if !ok {
			return p
		}
		p = s.inner
	}
}

// CanReEncrypt is the provider's, for a provider that may be behind a Service.
func (s *guarded) CanReEncrypt(from provider.EncryptionProvider) bool {
	to, ok := s.inner.(provider.ReEncrypter)
	return ok && to.CanReEncrypt(innermost(from))
}

// ReEncrypt is the provider's, behind the circuit breaker.
func (s *guarded) ReEncrypt(ctx context.Context, from provider.EncryptionProvider, ciphertext []byte, encryptionContext map[string]string) (moved []byte, keyID string, err error) {
	to, ok := s.inner.(provider.ReEncrypter)
	if !ok {
		return nil, "", fmt.Errorf("%w: provider %s moves no values", provider.ErrInvalidProvider, s.Type())
	}
	err = s.call(ctx, "ReEncrypt", func(ctx context.Context) (err error) {
		moved, keyID, err = to.ReEncrypt(ctx, innermost(from), ciphertext, encryptionContext)
		return err
	})
	return moved, keyID, err
}
