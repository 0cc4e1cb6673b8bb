package provider

import "context"

// Guard makes a call of a key service, or refuses it, as a circuit breaker does.
type Guard func(ctx context.Context, operation string, call func(context.Context) error) error

// Guarded is a provider that caches keys of its own, so that it calls its key service for few
// requests only. A guard, such as the circuit breaker of package service, must then not stand in
// front of the provider: it would also refuse requests that need no call.
type Guarded interface {
	EncryptionProvider

	// Guarded returns the provider with a guard, through which it makes each call of its key
	// service. The two share the keys.
	Guarded(guard Guard) EncryptionProvider
}
