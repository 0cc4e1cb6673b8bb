package command

import (
	"context"
	"iter"
	"sync/atomic"
)

// stopping is how a signal ends a command. Work on several objects finishes those that it has
// begun. All else ends at once.
type stopping struct {
	asked     chan struct{} // closed by the first signal
	finishing atomic.Bool   // whether a first signal is waited for
	inRow     atomic.Int64  // objects that failed one after the other, and may not fail later
	enough    atomic.Bool   // there were so many of them that no more are to be begun
}

type stoppingKey struct{}

// withStopping returns a context that carries how a signal ends its command.
func withStopping(ctx context.Context) (context.Context, *stopping) {
	s := &stopping{asked: make(chan struct{})}
	return context.WithValue(ctx, stoppingKey{}, s), s
}

// finishOnSignal has the first signal not end the context, until release is called.
func finishOnSignal(ctx context.Context) *stopping {
	s, ok := ctx.Value(stoppingKey{}).(*stopping)
	if !ok {
		s = &stopping{}
	}
	s.finishing.Store(true)
	return s
}

func (s *stopping) release() { s.finishing.Store(false) }

// isAsked tells whether no more objects are to be begun.
func (s *stopping) isAsked() bool {
	select {
	case <-s.asked:
		return true
	default:
		return s.enough.Load()
	}
}

// count counts failures that may pass.
func (s *stopping) count(o outcome) {
	if !o.passes {
		s.inRow.Store(0)
	} else if s.inRow.Add(1) >= enough {
		s.enough.Store(true)
	}
}

// until yields items until no more are to be begun.
func (s *stopping) until(items iter.Seq[item]) iter.Seq[item] {
	return func(yield func(item) bool) {
		for i := range items {
			if s.isAsked() || !yield(i) {
				return
			}
		}
	}
}
