package provider

import "context"

// Guarded is a provider that keeps keys of its own, so that it calls its key service for few
// requests only. What guards the calls, such as the circuit breaker of package service, must then
// not stand before the provider: it would refuse requests that need no call.
type Guarded interface {
	EncryptionProvider

	// Guard makes the provider make each call of its key service through a function. It must be
	// called before the provider is used.
	Guard(guard func(ctx context.Context, operation string, call func(context.Context) error) error)
}
