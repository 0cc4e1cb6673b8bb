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

// stopping is how a signal ends a command. Work on several objects finishes those that it has
// begun. All else ends at once.
type stopping struct {
	Asked     chan struct{} // closed by the first signal
	Finishing atomic.Bool   // whether objects that are begun are finished after the first signal
	Awaited   atomic.Bool   // whether the command itself bounds how long it goes on after a signal

	mu     sync.Mutex // of what follows
	inRow  int        // objects that failed one after the other, for what is not theirs
	done   bool       // whether an object was worked on to its end
	enough string     // why no more objects are to be begun, if there were too many of these failures
}

// How many objects in a row may fail before no more are begun, in all their tries or because they
// are denied. What all of them need is then away for longer. A single object may be denied among
// others that are not, and so may a folder of them. But if none was done, or the credentials are
// refused, more would only be the same.
const (
	enough       = 20
	enoughDenied = 5
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

// finishOnSignal has the first signal not end the context, until release is called.
func finishOnSignal(ctx context.Context) *stopping {
	s, ok := ctx.Value(stoppingKey{}).(*stopping)
	if !ok {
		s = &stopping{}
	}
	s.Finishing.Store(true)
	return s
}

func (s *stopping) release() { s.Finishing.Store(false) }

// isAsked tells whether no more objects are to be begun.
func (s *stopping) isAsked() bool {
	select {
	case <-s.Asked:
		return true
	default:
		return s.reason() != ""
	}
}

// count counts the outcome of an object. One that was skipped says nothing of what it did not need.
func (s *stopping) count(err error) {
	_, isSkipped := errors.AsType[Skipped](err)
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := places.RefusalOf(err)
	switch {
	case isSkipped || s.enough != "":
	case err == nil:
		s.inRow, s.done = 0, true
	case places.Passes(err):
		if s.inRow++; s.inRow >= enough {
			s.enough = fmt.Sprintf("%d failures in a row that may pass", s.inRow)
		}
	case refused == places.NotRefused:
		s.inRow = 0
	default:
		s.inRow++
		if s.inRow >= enough || s.inRow >= enoughDenied && (refused == places.RefusedCredentials || !s.done) {
			s.enough = fmt.Sprintf("%d objects in a row that were denied: check the credentials and the permissions", s.inRow)
		}
	}
}

// reason returns why no more objects are to be begun, though no signal asked for that.
func (s *stopping) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enough
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
