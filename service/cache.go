package service

import (
	"cmp"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// CacheLimits bound how long and how often a cached data key is used (specification:
// framework/caching-cmm.md). A zero field means its default. A message that has begun before
// MaxBytes is reached is finished. When there are MaxKeys data keys for encrypting, or as many for
// decrypting, a new one replaces the one of its kind that was last used longest ago.
//
// A data key serves all requests with the same encryption context, and of a
// [provider.ScopedKeyring] those in the same scope. Two kinds of messages get nothing from the
// cache when they are encrypted: signed ones, each of which has a new verification key in its
// encryption context, and those for several recipients, whose data key no single key service makes.
// Repeated reads of one of them are served.
//
// Each message derives keys of its own from its data key and its random ID. So one data key is as
// safe for many messages as for one. The limits bound how much a stolen data key opens, and how
// long messages can still be read after their KMS key is disabled.
type CacheLimits struct {
	MaxAge      time.Duration // of a data key; default 5 minutes
	MaxMessages int64         // that are encrypted under a data key; default 2²⁰
	MaxBytes    int64         // that are encrypted under a data key; default 2⁴⁰
	MaxKeys     int           // data keys for encrypting, and as many for decrypting; default 100
}

// Defaults of CacheLimits' fields.
const (
	defaultMaxAge      = 5 * time.Minute
	defaultMaxMessages = 1 << 20
	defaultMaxBytes    = 1 << 40
	defaultMaxKeys     = 100
)

// cache is a keyring that reuses the data keys of another one, for encrypting and decrypting.
type cache struct {
	provider.Keyring
	limits CacheLimits
	note   func(ctx context.Context, result string) // is called with "hit" or "miss" for each request; may be nil

	mu      sync.Mutex
	entries map[string]*entry // by identity
	used    [2]*list.List     // of entries for encrypting and for decrypting, last used first
	closed  bool
}

// entry is a data key, or a call for one that is under way.
type entry struct {
	id      string
	element *list.Element // nil while the call is under way
	done    chan struct{} // closed when the call is over
	err     error         // of the call
	gaveUp  bool          // the caller that made the call gave up before it was over

	key             *provider.SecureBytes
	made            *provider.DataKey // only for encrypting, otherwise nil
	messages, bytes int64             // encrypted so far
	fits            bool              // only for decrypting: a message's header has verified under it
	verified        func(fits bool)   // only for decrypting: the Verified of its DataKeys
	expiry          *time.Timer
}

// use returns the list in which an entry is. Encrypting and decrypting evict none of one another's
// data keys: whoever does both needs as many of each.
func (c *cache) use(e *entry) *list.List {
	if e.made != nil {
		return c.used[0]
	}
	return c.used[1]
}

func newCache(k provider.Keyring, limits CacheLimits) *cache {
	limits.MaxAge = cmp.Or(max(limits.MaxAge, 0), defaultMaxAge)
	limits.MaxMessages = cmp.Or(max(limits.MaxMessages, 0), defaultMaxMessages)
	limits.MaxBytes = cmp.Or(max(limits.MaxBytes, 0), defaultMaxBytes)
	limits.MaxKeys = cmp.Or(max(limits.MaxKeys, 0), defaultMaxKeys)
	return &cache{Keyring: k, limits: limits, entries: make(map[string]*entry), used: [2]*list.List{list.New(), list.New()}}
}

// identitySize has room for most identities, so they stay on the stack.
const identitySize = 512

// appendIdentity appends parts, each after its length.
func appendIdentity(b []byte, parts ...[]byte) []byte {
	for _, part := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// GenerateDataKey implements provider.Keyring.
func (c *cache) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	// Every signed message has a new verification key in its encryption context, so no cached data
	// key can serve it.
	if _, signed := encryptionContext[header.PublicKeyName]; signed {
		return c.Keyring.GenerateDataKey(ctx, encryptionContext)
	}
	scope, pairs, err := c.scope(ctx, encryptionContext)
	if err != nil {
		return nil, err
	}
	id := appendIdentity(make([]byte, 0, identitySize), []byte("encrypt"), scope, pairs)
	e, key, err := c.get(ctx, id, func() (*entry, error) {
		made, err := c.Keyring.GenerateDataKey(ctx, encryptionContext)
		if err != nil {
			return nil, err
		}
		e := &entry{key: made.PlaintextKey, made: made}
		made.Count = func(bytes int) { c.count(e, int64(bytes)) }
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	shared := *e.made
	shared.PlaintextKey = key
	return &shared, nil
}

// scope returns the keyring's scope of a request, and the request's encryption context as bytes. It
// is called for hits, too, so a keyring that decides by ctx decides on each request.
func (c *cache) scope(ctx context.Context, encryptionContext map[string]string) (scope, pairs []byte, err error) {
	name, err := provider.CacheScope(ctx, c.Keyring, encryptionContext)
	if err != nil {
		return nil, nil, err
	}
	pairs, err = header.AppendContext(nil, encryptionContext)
	return []byte(name), pairs, err
}

// UnwrapDataKey implements provider.Keyring.
func (c *cache) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	scope, pairs, err := c.scope(ctx, request.Context)
	if err != nil {
		return nil, err
	}
	k := request.EncryptedKey
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(request.Size))
	id := appendIdentity(make([]byte, 0, identitySize), []byte("decrypt"), scope, []byte(k.ProviderID), k.ProviderInfo, k.Ciphertext, pairs, size[:])
	e, key, err := c.get(ctx, id, func() (*entry, error) {
		key, err := c.Keyring.UnwrapDataKey(ctx, request)
		if err != nil {
			return nil, err
		}
		e := &entry{key: key.PlaintextKey}
		e.verified = func(fits bool) { c.judge(e, fits) }
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	return &provider.DataKey{PlaintextKey: key, Verified: e.verified}, nil
}

// judge is called with whether a message's header verified under an unwrapped data key. A data key
// that never fitted is evicted, so that the key service is asked again. If it did fit before, the
// message must have been changed, and the data key stays. Otherwise anyone who can change messages
// could cause a call of the key service for each reading.
func (c *cache) judge(e *entry, fits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.fits = e.fits || fits
	if !e.fits {
		c.evict(e)
	}
}

// get returns the entry of an identity, and a share of its data key. If several callers find none,
// one makes the call and the others wait for it.
func (c *cache) get(ctx context.Context, id []byte, call func() (*entry, error)) (*entry, *provider.SecureBytes, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		c.mu.Lock()
		e := c.entries[string(id)]
		if e == nil {
			break
		}
		if e.element != nil {
			key, err := e.key.Share()
			if err == nil {
				c.spend(e, 1, 0)
			}
			c.mu.Unlock()
			c.tell(ctx, "hit")
			return e, key, err
		}
		c.mu.Unlock()
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		// If the caller that made the call gave up, the others got no answer, and the next one
		// calls.
		if e.err != nil && !e.gaveUp {
			return nil, nil, e.err
		}
	}
	pending := &entry{id: string(id), done: make(chan struct{}), err: errPanic}
	c.entries[pending.id] = pending
	c.mu.Unlock()
	defer func() { // deferred, so that it happens even if the call panics
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.entries[pending.id] == pending {
			delete(c.entries, pending.id)
		}
		close(pending.done)
	}()

	c.tell(ctx, "miss")
	e, err := call()
	var key *provider.SecureBytes
	if err == nil {
		key, err = e.key.Share()
	}
	if pending.err, pending.gaveUp = err, ctx.Err() != nil; err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(pending.id, e)
	c.spend(e, 1, 0)
	return e, key, nil
}

func (c *cache) tell(ctx context.Context, result string) {
	if c.note != nil {
		c.note(ctx, result)
	}
}

var errPanic = errors.New("service: the call for a data key panicked")

// keep puts an entry into the cache.
func (c *cache) keep(id string, e *entry) {
	e.id = id
	c.entries[id] = e
	used := c.use(e)
	e.element = used.PushFront(e)
	if c.closed {
		c.evict(e)
		return
	}
	e.expiry = time.AfterFunc(c.limits.MaxAge, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.evict(e)
	})
	for used.Len() > c.limits.MaxKeys {
		c.evict(used.Back().Value.(*entry))
	}
}

// count adds bytes that a message encrypted under an entry's data key.
func (c *cache) count(e *entry, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spend(e, 0, bytes)
}

// spend records a use of an entry, and evicts the entry when it is used up.
func (c *cache) spend(e *entry, messages, bytes int64) {
	if c.entries[e.id] != e {
		return
	}
	c.use(e).MoveToFront(e.element)
	e.messages += messages
	e.bytes += bytes
	if e.made != nil && (e.messages >= c.limits.MaxMessages || e.bytes >= c.limits.MaxBytes) {
		c.evict(e)
	}
}

// evict removes an entry. Its key is zeroed when the messages that are under way have closed their
// shares.
func (c *cache) evict(e *entry) {
	if c.entries[e.id] != e {
		return
	}
	delete(c.entries, e.id)
	c.use(e).Remove(e.element)
	if e.expiry != nil {
		e.expiry.Stop()
	}
	_ = e.key.Close() // memory that can't be given back is no fault of the caller
}

// close evicts all entries. It also keeps calls that are under way from adding entries.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, used := range c.used {
		for used.Len() > 0 {
			c.evict(used.Front().Value.(*entry))
		}
	}
}
