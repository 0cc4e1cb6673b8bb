package awskms

import (
	"context"
	"sync"
)

// shared is a value that is asked for when it is first needed. Callers that need it at the same
// time share one request. If a request fails, the next caller makes another.
type shared[T any] struct {
	mu      sync.Mutex
	value   T
	known   bool
	request *request[T] // the request under way, if any
}

// request is one attempt to get a shared value. Its result is set before done is closed.
type request[T any] struct {
	waiting int // number of callers that wait
	cancel  context.CancelFunc
	done    chan struct{}
	value   T
	err     error
}

// peek returns the value, if it is known.
func (s *shared[T]) peek() (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.known
}

// set sets the value.
func (s *shared[T]) set(value T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.known = value, true
}

// get returns the value. If it is not known, get asks for it. A caller whose context ends leaves
// the request to the other callers. When the last one leaves, the request ends.
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
			s.request = nil // so that the next caller makes another
		}
	}
	var none T
	return none, ctx.Err()
}

// begin starts a request. The request outlives the caller that began it, but keeps the values of
// that caller's context. The caller of begin holds the lock.
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
