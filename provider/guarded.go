package provider

import "context"

// Guard makes a call of a key service, or refuses it, as a circuit breaker does.
type Guard func(ctx context.Context, operation string, call func(context.Context) error) error

// Guarded is a provider that keeps keys of its own, so that it calls its key service for few
// requests only. What guards the calls, such as the circuit breaker of package service, must then
// not stand before the provider: it would refuse requests that need no call. A Guarded makes each
// call of its key service by CallGuarded.
type Guarded interface {
	EncryptionProvider

	// CallsGuarded does nothing. It says that the provider makes its calls by CallGuarded.
	CallsGuarded()
}

type guardKey struct{}

// WithGuard returns a context in which CallGuarded makes calls through a guard.
func WithGuard(ctx context.Context, guard Guard) context.Context {
	return context.WithValue(ctx, guardKey{}, guard)
}

// CallGuarded makes a call through the guard that the context has, or directly if it has none.
func CallGuarded(ctx context.Context, operation string, call func(context.Context) error) error {
	if guard, ok := ctx.Value(guardKey{}).(Guard); ok {
		return guard(ctx, operation, call)
	}
	return call(ctx)
}
