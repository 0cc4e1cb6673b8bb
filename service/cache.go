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

// CacheLimits say how long and how often a cached data key is used (specification:
// framework/caching-cmm.md). A zero field means its default. Messages that were begun before
// MaxBytes is reached are finished. Past MaxKeys the data key that has not been used for longest
// gives way.
//
// Each message derives keys of its own from its data key and its random ID, so that one data key is
// as safe for many messages as for one; the limits bound what a stolen data key opens, and how long
// a disabled KMS key still works.
type CacheLimits struct {
	MaxAge      time.Duration // age of a data key, default 5 minutes
	MaxMessages int64         // messages encrypted under a data key, default 2²⁰
	MaxBytes    int64         // bytes encrypted under a data key, default 2⁴⁰
	MaxKeys     int           // data keys in the cache, default 100
}

// Defaults of CacheLimits.
const (
	DefaultMaxAge      = 5 * time.Minute
	DefaultMaxMessages = 1 << 20
	DefaultMaxBytes    = 1 << 40
	DefaultMaxKeys     = 100
)

// cache is a keyring that gives out the data keys of another one again, to encrypt and to decrypt.
type cache struct {
	provider.Keyring
	limits CacheLimits
	note   func(ctx context.Context, result string) // of each request: hit or miss; may be nil

	mu      sync.Mutex
	entries map[string]*entry // by identity
	used    *list.List        // of entries, those used last first
	closed  bool
}

// entry is a data key, or the call that is to bring it.
type entry struct {
	id      string
	element *list.Element // nil while the call is under way
	done    chan struct{} // closed when the call is over
	err     error         // of the call
	gaveUp  bool          // the caller whose call it was, before it was over

	key             *provider.SecureBytes
	made            *provider.DataKey // to encrypt; nil to decrypt
	messages, bytes int64             // encrypted so far
	fits            bool              // to decrypt: a message's header verified under it
	verified        func(fits bool)   // to decrypt: takes a message's word
	expiry          *time.Timer
}

func newCache(k provider.Keyring, limits CacheLimits) *cache {
	limits.MaxAge = cmp.Or(max(limits.MaxAge, 0), DefaultMaxAge)
	limits.MaxMessages = cmp.Or(max(limits.MaxMessages, 0), DefaultMaxMessages)
	limits.MaxBytes = cmp.Or(max(limits.MaxBytes, 0), DefaultMaxBytes)
	limits.MaxKeys = cmp.Or(max(limits.MaxKeys, 0), DefaultMaxKeys)
	return &cache{Keyring: k, limits: limits, entries: make(map[string]*entry), used: list.New()}
}

// identitySize is room for most identities, which then stay on the stack.
const identitySize = 512

// appendIdentity appends parts, each with its length before it.
func appendIdentity(b []byte, parts ...[]byte) []byte {
	for _, part := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// GenerateDataKey implements provider.Keyring.
func (c *cache) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	// The verification key of a signed message is new each time, so a cache can have no data key
	// for it.
	if _, signed := request.Context[header.PublicKeyName]; signed {
		return c.Keyring.GenerateDataKey(ctx, request)
	}
	pairs, err := header.AppendContext(nil, request.Context)
	if err != nil {
		return nil, err
	}
	id := appendIdentity(make([]byte, 0, identitySize), []byte("encrypt"), []byte(request.KeyID), []byte(request.KeySpec), pairs)
	e, key, err := c.get(ctx, id, func() (*entry, error) {
		made, err := c.Keyring.GenerateDataKey(ctx, request)
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

// UnwrapDataKey implements provider.Keyring.
func (c *cache) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	pairs, err := header.AppendContext(nil, request.Context)
	if err != nil {
		return nil, err
	}
	k := request.EncryptedKey
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(request.Size))
	id := appendIdentity(make([]byte, 0, identitySize), []byte("decrypt"), []byte(k.ProviderID), k.ProviderInfo, k.Ciphertext, pairs, size[:])
	e, key, err := c.get(ctx, id, func() (*entry, error) {
		key, err := c.Keyring.UnwrapDataKey(ctx, request)
		if err != nil {
			return nil, err
		}
		e := &entry{key: key}
		e.verified = func(fits bool) { c.judge(e, fits) }
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	request.Verified = e.verified
	return key, nil
}

// judge takes a message's word on an unwrapped data key. One that never fitted is forgotten, so
// that the key service is asked again. One that did fit is right, and the message was changed: if it
// were forgotten, whoever can change messages could have the key service asked for every reading.
func (c *cache) judge(e *entry, fits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.fits = e.fits || fits
	if !e.fits {
		c.evict(e)
	}
}

// get returns the entry of this identity and a share of its data key. Of several callers that find
// none, one makes the call and the others wait for it.
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
		// A caller that gave up got no answer for the others: the next one asks.
		if e.err != nil && !e.gaveUp {
			return nil, nil, e.err
		}
	}
	pending := &entry{id: string(id), done: make(chan struct{}), err: errPanic}
	c.entries[pending.id] = pending
	c.mu.Unlock()
	defer func() { // also when the call panics
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
	e.element = c.used.PushFront(e)
	if c.closed {
		c.evict(e)
		return
	}
	e.expiry = time.AfterFunc(c.limits.MaxAge, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.evict(e)
	})
	for c.used.Len() > c.limits.MaxKeys {
		c.evict(c.used.Back().Value.(*entry))
	}
}

// count is what messages under an entry's data key tell of their bytes.
func (c *cache) count(e *entry, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spend(e, 0, bytes)
}

// spend notes a use of an entry, and evicts it once it is used up.
func (c *cache) spend(e *entry, messages, bytes int64) {
	if c.entries[e.id] != e {
		return
	}
	c.used.MoveToFront(e.element)
	e.messages += messages
	e.bytes += bytes
	if e.made != nil && (e.messages >= c.limits.MaxMessages || e.bytes >= c.limits.MaxBytes) {
		c.evict(e)
	}
}

// evict removes an entry and zeroes its key, once the messages under way have done with it.
func (c *cache) evict(e *entry) {
	if c.entries[e.id] != e {
		return
	}
	delete(c.entries, e.id)
	c.used.Remove(e.element)
	if e.expiry != nil {
		e.expiry.Stop()
	}
	_ = e.key.Close() // that memory can't be given back is no failure of the caller's
}

// close evicts all entries, and those that calls under way will bring.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for c.used.Len() > 0 {
		c.evict(c.used.Front().Value.(*entry))
	}
}
