package provider

import "context"

type requestsKey struct{}

// WithRequests returns a context in which each request to a key service calls sent before it is
// sent. A call of a key service that is tried again makes several. sent must be safe for concurrent
// use.
func WithRequests(ctx context.Context, sent func()) context.Context {
	return context.WithValue(ctx, requestsKey{}, sent)
}

// CountRequest calls the function that the context has from WithRequests. Providers call it before
// each request to their key service.
func CountRequest(ctx context.Context) {
	if sent, ok := ctx.Value(requestsKey{}).(func()); ok {
		sent()
	}
}
