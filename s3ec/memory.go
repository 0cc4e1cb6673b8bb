package s3ec

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// defaultMemory is the size in bytes of the memory that all Openers without one of their own share.
const defaultMemory = 1 << 30

// ErrMemory means that an object is larger than all of the memory in which it would be decrypted.
var ErrMemory = errors.New("one tag covers the whole object, so it is decrypted in memory, and it does not fit")

// memory bounds the bytes of all objects that are being decrypted at the same time. An object waits
// until there is room for it. It is safe for concurrent use.
type memory struct {
	size int64
	free *semaphore.Weighted

	mu            sync.Mutex
	used, garbage int64 // bytes that are taken, and those that were given back since garbage was last collected
}

func newMemory(size int64) *memory { return &memory{size: size, free: semaphore.NewWeighted(size)} }

var sharedMemory = newMemory(defaultMemory)

// take waits for n bytes. What was given back may still be in Go's heap, so garbage is collected
// where the two together would exceed the memory.
func (m *memory) take(ctx context.Context, n int64) error {
	if n > m.size {
		return fmt.Errorf("%w: it has %d bytes, and more than the limit of %d; decrypt it with the client, or raise the limit", ErrMemory, n, m.size)
	}
	if !m.free.TryAcquire(n) {
		collecting, stop := context.WithCancel(ctx)
		go collect(collecting)
		err := m.free.Acquire(ctx, n) // in turn, so that a large object does not wait for ever
		stop()
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.used += n
	isFull := m.garbage > 0 && m.used+m.garbage > m.size
	if isFull {
		m.garbage = 0
	}
	m.mu.Unlock()
	if isFull {
		runtime.GC()
	}
	return nil
}

// collect collects garbage each second, which frees what was dropped without being closed.
func collect(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for ctx.Err() == nil {
		runtime.GC()
		select {
		case <-ctx.Done():
		case <-second.C:
		}
	}
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	m.used, m.garbage = m.used-n, m.garbage+n
	m.mu.Unlock()
	m.free.Release(n)
}
