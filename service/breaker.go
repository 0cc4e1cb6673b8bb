package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// The circuit breaker opens after this many outages in a row. After openFor it lets one trial call
// through. A trial that has no answer for as long is an outage.
const (
	outagesToOpen = 5
	openFor       = 30 * time.Second
)

// fairWait decides whose fault it is if the deadline of a caller's context ends a call. If the
// caller has waited as long as this, it is an outage of the key service. Otherwise the caller was
// impatient. AWS KMS takes tens of milliseconds, and gives an external key store 250 ms to answer
// (AWS KMS Developer Guide, "External key store proxy"). The rest is for retries.
const fairWait = 3 * time.Second

// ErrBreakerOpen means that the circuit breaker refused the call without asking the key service. It
// holds provider.ErrProviderUnavailable.
var ErrBreakerOpen = fmt.Errorf("%w: the circuit breaker is open", provider.ErrProviderUnavailable)

// State is the breaker's state.
type State = gobreaker.State

// The states of the breaker. StateClosed lets calls pass, and StateOpen refuses them. In
// StateHalfOpen one trial is under way, and all other calls are refused.
const (
	StateClosed   = gobreaker.StateClosed
	StateOpen     = gobreaker.StateOpen
	StateHalfOpen = gobreaker.StateHalfOpen
)

func (s *guarded) State() State {
	if s.breaker == nil {
		return StateClosed
	}
	return s.breaker.State()
}

func newBreaker(onStateChange func(from, to State)) *gobreaker.CircuitBreaker[any] {
	settings := gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     openFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= outagesToOpen },
		// An excluded call makes room for another trial. It does not end a row of outages.
		IsExcluded: func(err error) bool { return err != nil && !errors.Is(err, errOutage) },
	}
	settings.OnStateChange = func(_ string, from, to State) { onStateChange(from, to) }
	return gobreaker.NewCircuitBreaker[any](settings)
}

// A call that succeeds, or that the key service answers with an error, shows that the service is
// up. These are the verdicts on other calls.
var (
	errOutage    = errors.New("the key service is down")
	errNoVerdict = errors.New("the call says nothing of the key service")
)

// judge returns what a call's error means for the key service: nil if the service is up, errOutage
// or errNoVerdict. There are three signs of an outage:
//
//   - The provider says so with ErrProviderUnavailable, as for refused and dropped connections,
//     errors of the service, and throttling that outlasts the retries.
//   - A deadline of the provider's own has passed.
//   - A caller's deadline has passed after fairWait.
func judge(ctx context.Context, err error, waited time.Duration) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		// The end of the caller's context may have caused the error, whatever it is. Its cause is a
		// deadline, too, if a caller's deadline ended a call that a provider makes for several.
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) && waited >= fairWait {
			return errOutage
		}
		return errNoVerdict
	}
	if errors.Is(err, provider.ErrProviderUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return errOutage
	}
	if isAnswer(err) {
		return nil
	}
	return errNoVerdict
}

// isAnswer reports whether an error is the key service's answer, which shows that it is up. Other
// errors say nothing about it, such as those for input that is refused before the service is asked.
func isAnswer(err error) bool {
	for _, e := range [...]error{
		provider.ErrAccessDenied, provider.ErrKeyNotFound, provider.ErrKeyDisabled, provider.ErrKeyPendingDeletion,
		provider.ErrKeyUsage, provider.ErrDecryptionFailed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// guard makes a call of the provider through the breaker, unless there is no breaker, or it is
// inside the provider.
func guard[T any](ctx context.Context, s *guarded, operation string, call func(context.Context) (T, error)) (T, error) {
	switch {
	case s.inside:
		return call(ctx)
	case s.breaker == nil:
		return observe(ctx, s.instruments, operation, call)
	}
	return pass(ctx, s, operation, call)
}

// observe makes a call, and reports it.
func observe[T any](ctx context.Context, i *instruments, operation string, call func(context.Context) (T, error)) (result T, err error) {
	traced, done := i.call(ctx, operation)
	verdict := errNoVerdict // stays if the call panics
	defer func() { done(err, verdict) }()
	begin := time.Now()
	result, err = call(traced)
	verdict = judge(ctx, err, time.Since(begin))
	return result, err
}

// pass makes a call through the breaker. If the context has ended, it does not make the call.
func pass[T any](ctx context.Context, s *guarded, operation string, call func(context.Context) (T, error)) (result T, err error) {
	fail := func(err error) error {
		return &provider.EncryptionError{Operation: operation, Provider: string(s.Type()), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return result, fail(err)
	}
	traced, done := s.instruments.call(ctx, operation)
	verdict := errNoVerdict // stays if the call panics
	defer func() { done(err, verdict) }()
	begin := time.Now()
	_, refused := s.breaker.Execute(func() (any, error) {
		limited, cancel := s.limitTrial(traced)
		defer cancel()
		result, err = call(limited)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			err = fail(fmt.Errorf("%w: no answer within %v: %w", provider.ErrProviderUnavailable, openFor, err))
		}
		verdict = judge(ctx, err, time.Since(begin))
		return nil, verdict
	})
	if errors.Is(refused, gobreaker.ErrOpenState) || errors.Is(refused, gobreaker.ErrTooManyRequests) {
		err = fail(ErrBreakerOpen)
	}
	return result, err
}

// limitTrial bounds the time of a trial, since all other calls are refused while it is under way.
func (s *guarded) limitTrial(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.State() != StateHalfOpen {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, openFor)
}

// uncached is a Service's provider, called through the breaker and without the cache.
type uncached struct{ s *guarded }

func (b uncached) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	return guard(ctx, b.s, "GenerateDataKey", func(ctx context.Context) (*provider.DataKey, error) {
		return b.s.inner.GenerateDataKey(ctx, encryptionContext)
	})
}

func (b uncached) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return guard(ctx, b.s, "WrapDataKey", func(ctx context.Context) (header.EncryptedDataKey, error) {
		return b.s.inner.WrapDataKey(ctx, key, encryptionContext)
	})
}

func (b uncached) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	return guard(ctx, b.s, "UnwrapDataKey", func(ctx context.Context) (*provider.DataKey, error) {
		return b.s.inner.UnwrapDataKey(ctx, request)
	})
}

// CacheScope implements provider.ScopedKeyring.
func (b uncached) CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error) {
	return b.s.CacheScope(ctx, encryptionContext)
}

// CacheScope implements provider.ScopedKeyring. The scope is the provider's.
func (s *guarded) CacheScope(ctx context.Context, encryptionContext map[string]string) (string, error) {
	return cacheScope(ctx, s.inner, encryptionContext)
}

// WrapDataKey implements provider.Keyring.
func (s *guarded) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return uncached{s}.WrapDataKey(ctx, key, encryptionContext)
}

// IsCurrent implements provider.VersionedKeyring, if the provider does. Otherwise it returns false.
func (s *guarded) IsCurrent(ctx context.Context, request *provider.UnwrapDataKeyRequest) (bool, error) {
	versioned, ok := s.inner.(provider.VersionedKeyring)
	if !ok {
		return false, nil
	}
	return guard(ctx, s, "IsCurrent", func(ctx context.Context) (bool, error) { return versioned.IsCurrent(ctx, request) })
}

// UnwrapPikoV2 implements provider.PikoV2Keyring, if the provider does. Otherwise the error holds
// provider.ErrInvalidProvider.
func (s *guarded) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	keyring, ok := s.inner.(provider.PikoV2Keyring)
	if !ok {
		return nil, fmt.Errorf("%w: provider %s reads nothing from before pikokms", provider.ErrInvalidProvider, s.Type())
	}
	return guard(ctx, s, "UnwrapPikoV2", func(ctx context.Context) (*provider.SecureBytes, error) {
		return keyring.UnwrapPikoV2(ctx, wrapped)
	})
}

// UnwrapS3EC implements provider.S3ECKeyring, if the provider does. Otherwise the error holds
// provider.ErrUntrustedKey.
func (s *guarded) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	keyring, ok := s.inner.(provider.S3ECKeyring)
	if !ok {
		return nil, provider.ErrUntrustedKey
	}
	return guard(ctx, s, "UnwrapS3EC", func(ctx context.Context) (*provider.SecureBytes, error) {
		return keyring.UnwrapS3EC(ctx, wrapped)
	})
}

var _ provider.ScopedKeyring = uncached{}
