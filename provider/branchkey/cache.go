package branchkey

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"piko.sh/pikokms/internal/keycache"
	"piko.sh/pikokms/provider"
)

// material is a version of a branch key, unwrapped.
type material struct {
	version uuid.UUID
	active  bool // it came from the active item
	key     *provider.SecureBytes
}

func (m *material) share() (*material, error) {
	key, err := m.key.Share()
	return &material{m.version, m.active, key}, err
}

// Close closes the share of the key.
func (m *material) Close() error { return m.key.Close() }

// slot is the key of a cached material. A slot without a version holds the active version, for
// encrypting. A slot with one holds that version, for decrypting.
type slot struct {
	id      string
	version uuid.UUID
}

// cache has the branch keys that were used last. Each is used until its TTL has passed since it was
// asked for, and then zeroed (specification: framework/local-cryptographic-materials-cache.md).
type cache struct {
	ttl time.Duration

	mu      sync.Mutex
	kept    *keycache.Cache[slot, *material]
	fetches map[slot]*fetch
	closed  bool
}

// fetch is one request for a branch key that is not cached. Several callers can wait for it. Its
// result is set before done is closed.
type fetch struct {
	waiting int
	cancel  context.CancelCauseFunc
	done    chan struct{}
	got     *material
	err     error
}

func newCache(ttl time.Duration, entries int) *cache {
	c := &cache{ttl: ttl, fetches: make(map[slot]*fetch)}
	c.kept = keycache.New[slot, *material](&c.mu, entries)
	return c
}

// get returns a branch key, whose key the caller closes. If it is not cached, get asks for it.
// Callers that need it at the same time share one request. A caller whose context ends leaves the
// request to the others. When the last one leaves, the request ends.
func (c *cache) get(ctx context.Context, s slot, ask func(context.Context) (*material, error)) (*material, error) {
	c.mu.Lock()
	if err := ctx.Err(); err != nil {
		defer c.mu.Unlock()
		return nil, err
	}
	if got := c.find(s); got != nil {
		defer c.mu.Unlock()
		return got.share()
	}
	if c.closed {
		defer c.mu.Unlock()
		return nil, fmt.Errorf("branch key provider: %w", provider.ErrClosed)
	}
	f := c.fetches[s]
	if f == nil {
		f = c.begin(ctx, s, ask)
	}
	f.waiting++
	c.mu.Unlock()

	var ended error
	select {
	case <-f.done:
	case <-ctx.Done():
		ended = ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.leave(s, f, ended)
	if ended != nil {
		return nil, ended
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.got.share()
}

// find returns a cached branch key whose TTL has not passed, or nil. If the active version is the
// one that is looked for, it serves to decrypt, too. The caller holds the lock.
func (c *cache) find(s slot) *material {
	if got, ok := c.kept.Get(s); ok {
		return got
	}
	if active, ok := c.kept.Get(slot{id: s.id}); ok && active.version == s.version {
		return active
	}
	return nil
}

// begin starts a fetch. It outlives the caller that began it, but keeps the values of that caller's
// context. The caller of begin holds the lock.
func (c *cache) begin(ctx context.Context, s slot, ask func(context.Context) (*material, error)) *fetch {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &fetch{cancel: cancel, done: make(chan struct{})}
	c.fetches[s] = f
	ends := time.Now().Add(c.ttl) // the branch key may be replaced as soon as it is read
	go func() {
		defer cancel(nil)
		got, err := ask(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.fetches[s] == f {
			delete(c.fetches, s)
		}
		if err == nil {
			err = c.put(s, got, ends)
		}
		if got != nil && (err != nil || f.waiting == 0) {
			err = errors.Join(err, got.key.Close())
		}
		f.got, f.err = got, err
		close(f.done)
	}()
	return f
}

// leave is called when a caller no longer needs a fetch, with the error of its context if that has
// ended. The caller holds the lock.
func (c *cache) leave(s slot, f *fetch, ended error) {
	if f.waiting--; f.waiting > 0 {
		return
	}
	f.cancel(ended) // the circuit breaker judges a deadline differently from a caller who gives up
	if c.fetches[s] == f {
		delete(c.fetches, s) // so that the next caller makes another
	}
	if f.got != nil && f.err == nil {
		_ = f.got.key.Close() // its error concerns the process's memory, and no caller
	}
}

// put puts a branch key into the cache, which gets a share of its key. The caller holds the lock.
func (c *cache) put(s slot, got *material, ends time.Time) error {
	shared, err := got.share()
	if err != nil {
		return err
	}
	if got.active {
		s = slot{id: s.id} // there, find finds it both to encrypt and to decrypt
	}
	c.kept.Put(s, shared, ends)
	return nil
}

// drop removes what is cached of a branch key.
func (c *cache) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.DropFunc(func(s slot) bool { return s.id == id })
}

// close removes all entries and refuses new ones. It waits for no fetch.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.kept.Close()
}
