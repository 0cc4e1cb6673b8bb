package work

import (
	"context"
	"iter"
	"sync"
)

// InOrder works on several items side by side, and passes the results to take in the order of the
// items.
func InOrder[I, T any](ctx context.Context, jobs int, items iter.Seq[I], work func(I) T, take func(T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var working sync.WaitGroup
	defer working.Wait()
	waiting := make(chan chan T, 4*jobs)
	slots := make(chan struct{}, jobs)
	working.Go(func() {
		defer close(waiting)
		for i := range items {
			result := make(chan T, 1)
			select {
			case waiting <- result:
			case <-ctx.Done():
				return
			}
			slots <- struct{}{}
			working.Go(func() {
				defer func() { <-slots }()
				result <- work(i)
			})
		}
	})
	for result := range waiting {
		if err := take(<-result); err != nil {
			cancel()
			for range waiting { // each has room for its result, so no work waits for ever
			}
			return err
		}
	}
	return ctx.Err()
}
