// Package lazy has values that are fetched when they are first needed, such as the state of a key
// from its key service.
package lazy

import (
	"context"
	"sync"
)

// Value is a value that is fetched when it is first needed. Callers that need it at the same time
// share one request. If a request fails, the next caller makes another. It is safe for concurrent
// use.
type Value[T any] struct {
	mu      sync.Mutex
	value   T
	known   bool
	request *request[T] // the request under way, if any
}

// request is one attempt to get a Value. Its result is set before done is closed.
type request[T any] struct {
	waiting int // number of callers that wait
	cancel  context.CancelFunc
	done    chan struct{}
	value   T
	err     error
}

// Peek returns the value, if it is known.
func (v *Value[T]) Peek() (T, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.value, v.known
}

// Set sets the value.
func (v *Value[T]) Set(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value, v.known = value, true
}

// Get returns the value. If it is not known, Get asks for it. A caller whose context ends leaves
// the request to the other callers. When the last one leaves, the request ends. The error is ask's,
// or that of ctx.
func (v *Value[T]) Get(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	v.mu.Lock()
	if v.known {
		defer v.mu.Unlock()
		return v.value, nil
	}
	if err := ctx.Err(); err != nil {
		defer v.mu.Unlock()
		var none T
		return none, err
	}
	r := v.request
	if r == nil {
		r = v.begin(ctx, ask)
	}
	r.waiting++
	v.mu.Unlock()

	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		r.cancel()
		if v.request == r {
			v.request = nil // so that the next caller makes another
		}
	}
	var none T
	return none, ctx.Err()
}

// begin starts a request. The request outlives the caller that began it, but keeps the values of
// that caller's context. The caller of begin holds the lock.
func (v *Value[T]) begin(ctx context.Context, ask func(context.Context) (T, error)) *request[T] {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &request[T]{cancel: cancel, done: make(chan struct{})}
	v.request = r
	go func() {
		defer cancel()
		r.value, r.err = ask(ctx)
		v.mu.Lock()
		defer v.mu.Unlock()
		if r.err == nil {
			v.value, v.known = r.value, true
		}
		if v.request == r {
			v.request = nil
		}
		close(r.done)
	}()
	return r
}
