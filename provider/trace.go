package provider

import (
	"context"
	"errors"
)

// Trace observes the requests of one call of a key service. A call that is tried again makes
// several. Both methods may be called by several goroutines.
//
// A Trace belongs to a call, and not to a provider, which serves many calls at once. So a context
// carries it, as it does the traces of package net/http/httptrace.
type Trace interface {
	// Request is called before each request. It may wait, so that a caller keeps to a rate.
	Request()

	// Failed is called with the error of each request that failed, before it is made again. So a
	// caller that gives up between two attempts can say why the earlier ones failed. It is not
	// called for a request that the end of a context cut off.
	Failed(err error)
}

type traceKey struct{}

// WithTrace returns a context whose calls of a key service have a Trace. It replaces one that ctx
// has already.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceOf returns the Trace of a context, which a provider calls for each request of its key
// service. Without one, the result does nothing.
func TraceOf(ctx context.Context) Trace {
	t, ok := ctx.Value(traceKey{}).(Trace)
	if !ok {
		return noTrace{}
	}
	return contextTrace{t, ctx}
}

// contextTrace is the Trace of a context.
type contextTrace struct {
	Trace
	ctx context.Context
}

func (t contextTrace) Failed(err error) {
	if t.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		t.Trace.Failed(err)
	}
}

type noTrace struct{}

func (noTrace) Request()     {}
func (noTrace) Failed(error) {}
