package awskms

import (
	"context"
	"sync"
)

// shared is a value that is asked for when it is first needed. Callers that need it at the same
// time share one request, and a request that fails is made again by the next caller.
type shared[T any] struct {
	mu      sync.Mutex
	value   T
	known   bool
	request *request[T] // the one under way
}

// request is one attempt to get a shared value. Its result is set before done is closed.
type request[T any] struct {
	waiting int // callers
	cancel  context.CancelFunc
	done    chan struct{}
	value   T
	err     error
}

// peek returns the value if it is known.
func (s *shared[T]) peek() (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.known
}

// set makes the value known.
func (s *shared[T]) set(value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.known = value, true
}

// get returns the value and asks for it if it is not known. A caller whose context ends leaves the
// request to the other callers; the last to leave ends it.
func (s *shared[T]) get(ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	if s.known {
		defer s.mu.Unlock()
		return s.value, nil
	}
	if err := ctx.Err(); err != nil {
		defer s.mu.Unlock()
		var none T
		return none, err
	}
	r := s.request
	if r == nil {
		r = s.begin(ctx, ask)
	}
	r.waiting++
	s.mu.Unlock()

	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		r.cancel()
		if s.request == r {
			s.request = nil // the next caller begins anew
		}
	}
	var none T
	return none, ctx.Err()
}

// begin starts a request. It outlives the caller that began it, whose values it keeps. The caller
// of begin holds the lock.
func (s *shared[T]) begin(ctx context.Context, ask func(context.Context) (T, error)) *request[T] {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &request[T]{cancel: cancel, done: make(chan struct{})}
	s.request = r
	go func() {
		defer cancel()
		r.value, r.err = ask(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.err == nil {
			s.value, s.known = r.value, true
		}
		if s.request == r {
			s.request = nil
		}
		close(r.done)
	}()
	return r
}
