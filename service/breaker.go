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

// The breaker opens after this many outages in a row, and lets one trial through after this long.
const (
	Failures = 5
	OpenFor  = 30 * time.Second
)

// ErrOpen means that the circuit breaker refused the call, and the key service was not asked. It is, by errors.Is, a
// provider.ErrProviderUnavailable.
var ErrOpen = fmt.Errorf("%w: the circuit breaker is open", provider.ErrProviderUnavailable)

// State is the breaker's state.
type State = gobreaker.State

// The states: calls pass, calls are refused, or one trial is under way and all others are refused.
const (
	StateClosed   = gobreaker.StateClosed
	StateOpen     = gobreaker.StateOpen
	StateHalfOpen = gobreaker.StateHalfOpen
)

// State returns the breaker's state.
func (s *Service) State() State { return s.breaker.State() }

func newBreaker(onStateChange func(from, to State)) *gobreaker.CircuitBreaker[any] {
	settings := gobreaker.Settings{
		MaxRequests:  1,
		Timeout:      OpenFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= Failures },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		IsExcluded:   func(err error) bool { return err != nil && !isOutage(err) && !isAnswer(err) },
	}
	settings.OnStateChange = func(_ string, from, to State) { onStateChange(from, to) }
	return gobreaker.NewCircuitBreaker[any](settings)
}

// isOutage reports whether an error speaks of the key service being down: no answer in time, refused connections, errors of
// the service, throttling that retries did not get past. A caller who gives up is none.
func isOutage(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, provider.ErrProviderUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// isAnswer reports whether an error is the key service's answer, which shows that it is up. All others, such as input that is
// refused before it is asked, say nothing about it.
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

// guard calls the provider through the breaker.
func guard[T any](ctx context.Context, s *Service, operation string, call func(context.Context) (T, error)) (result T, err error) {
	ctx, done := s.instruments.call(ctx, operation)
	defer func() { done(err) }()
	_, err = s.breaker.Execute(func() (any, error) {
		var err error
		result, err = call(ctx)
		return nil, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = &provider.EncryptionError{Operation: operation, Provider: string(s.Type()), Err: ErrOpen}
	}
	return result, err
}

// broken is a Service's provider behind its breaker, without its cache.
type broken struct{ s *Service }

func (b broken) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	return guard(ctx, b.s, "GenerateDataKey", func(ctx context.Context) (*provider.DataKey, error) { return b.s.inner.GenerateDataKey(ctx, request) })
}

func (b broken) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return guard(ctx, b.s, "WrapDataKey", func(ctx context.Context) (header.EncryptedDataKey, error) {
		return b.s.inner.WrapDataKey(ctx, key, encryptionContext)
	})
}

func (b broken) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	return guard(ctx, b.s, "UnwrapDataKey", func(ctx context.Context) (*provider.SecureBytes, error) { return b.s.inner.UnwrapDataKey(ctx, request) })
}

// WrapDataKey implements provider.Keyring.
func (s *Service) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	return broken{s}.WrapDataKey(ctx, key, encryptionContext)
}

// UnwrapPikoV2 implements provider.PikoV2Keyring if the provider does; else the error holds provider.ErrInvalidProvider.
func (s *Service) UnwrapPikoV2(ctx context.Context, wrapped string) (*provider.SecureBytes, error) {
	keyring, ok := s.inner.(provider.PikoV2Keyring)
	if !ok {
		return nil, fmt.Errorf("%w: provider %s reads nothing from before pikokms", provider.ErrInvalidProvider, s.Type())
	}
	return guard(ctx, s, "UnwrapPikoV2", func(ctx context.Context) (*provider.SecureBytes, error) { return keyring.UnwrapPikoV2(ctx, wrapped) })
}

var _ provider.PikoV2Keyring = (*Service)(nil)
