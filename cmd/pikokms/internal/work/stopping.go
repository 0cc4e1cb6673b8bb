package work

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// stopping is how a signal ends a command. Work on several objects finishes the objects that it has
// begun. Everything else ends at once.
type stopping struct {
	Asked     chan struct{} // closed by the first signal
	Finishing atomic.Bool   // whether objects that are begun are finished after the first signal
	Awaited   atomic.Bool   // whether the command itself bounds how long it goes on after a signal

	mu      sync.Mutex // guards the fields below
	inRow   int        // failures in a row that are not due to the object
	done    bool       // whether an object was worked on to its end
	stopped string     // why no more objects are begun; empty while they are
}

// The run stops after maxFailuresInRow objects in a row that fail in all their tries: that many
// mean that a service is down. It stops after maxDeniedInRow objects in a row that are denied if
// none was done before, or if the credentials are refused: the others would be denied, too. A
// single object, or a folder of them, may be denied among others that are not.
const (
	maxFailuresInRow = 20
	maxDeniedInRow   = 5
)

type stoppingKey struct{}

// WithStopping returns a context that carries how a signal ends its command.
func WithStopping(ctx context.Context) (context.Context, *stopping) {
	s := &stopping{Asked: make(chan struct{})}
	return context.WithValue(ctx, stoppingKey{}, s), s
}

// AwaitEnd makes the process wait for its command after a signal, however long that takes. The
// command must bound that time.
func AwaitEnd(ctx context.Context) {
	if s, ok := ctx.Value(stoppingKey{}).(*stopping); ok {
		s.Awaited.Store(true)
	}
}

// finishOnSignal keeps the first signal from ending the context, until release is called.
func finishOnSignal(ctx context.Context) *stopping {
	s, ok := ctx.Value(stoppingKey{}).(*stopping)
	if !ok {
		s = &stopping{}
	}
	s.Finishing.Store(true)
	return s
}

func (s *stopping) release() { s.Finishing.Store(false) }

// isAsked reports whether no more objects are to be begun.
func (s *stopping) isAsked() bool {
	select {
	case <-s.Asked:
		return true
	default:
		return s.reason() != ""
	}
}

// count counts the outcome of an object. A skipped object does not count, since it did not need the
// services.
func (s *stopping) count(err error) {
	_, isSkipped := errors.AsType[Skipped](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := places.RefusalOf(err)
	switch {
	case isSkipped || s.stopped != "":
	case err == nil:
		s.inRow, s.done = 0, true
	case places.IsTransient(err):
		if s.inRow++; s.inRow >= maxFailuresInRow {
			s.stopped = fmt.Sprintf("%d failures in a row that may pass", s.inRow)
		}
	case refused == places.NotRefused:
		s.inRow = 0
	default:
		s.inRow++
		if s.inRow >= maxFailuresInRow || s.inRow >= maxDeniedInRow && (refused == places.RefusedCredentials || !s.done) {
			s.stopped = fmt.Sprintf("%d objects in a row that were denied: check the credentials and the permissions", s.inRow)
		}
	}
}

// reason returns why no more objects are to be begun. It is empty if only a signal, or nothing,
// asked for that.
func (s *stopping) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// until yields items until no more are to be begun.
func (s *stopping) until(items iter.Seq[Item]) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for i := range items {
			if s.isAsked() || !yield(i) {
				return
			}
		}
	}
}
