package provider

import (
	"context"
	"errors"
)

type attemptsKey struct{}

// WithAttempts returns a context whose calls of a key service report each attempt that failed,
// before it is made again. A caller whose patience ends before the attempts do can say why they
// failed. The function may be called by several goroutines.
func WithAttempts(ctx context.Context, failed func(error)) context.Context {
	return context.WithValue(ctx, attemptsKey{}, failed)
}

// ReportAttempt reports a failed attempt of a call to the function that the context has, if it has
// one. An attempt that the end of a context cut off is not reported.
func ReportAttempt(ctx context.Context, err error) {
	failed, ok := ctx.Value(attemptsKey{}).(func(error))
	if ok && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		failed(err)
	}
}
