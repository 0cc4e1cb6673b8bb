package service

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/keycache"
	"piko.sh/pikokms/provider"
)

// CacheLimits bound how long and how often a cached data key is used (specification:
// framework/caching-cmm.md). A zero field means its default. A message that has begun before
// MaxBytes is reached is finished. When there are MaxKeys data keys for encrypting, or as many for
// decrypting, a new one replaces the least recently used one of its kind.
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
	limits    CacheLimits
	onRequest func(ctx context.Context, result string) // is called with "hit" or "miss" for each request; may be nil

	mu    sync.Mutex
	calls map[string]*call // under way, by identity

	// There are two caches, so that encrypting does not evict data keys for decrypting, nor the
	// other way round.
	encrypting, decrypting *keycache.Cache[string, *entry] // by identity
}

// entry is a data key.
type entry struct {
	id   string
	kept *keycache.Cache[string, *entry] // the one of the entry's kind

	*provider.SecureBytes
	made            *provider.DataKey // only for encrypting, otherwise nil
	messages, bytes int64             // encrypted so far
	fits            bool              // only for decrypting: a message's header has verified under it
	verified        func(fits bool)   // only for decrypting: the Verified of its DataKeys
}

// call is a call for a data key. Its result is set before done is closed.
type call struct {
	done   chan struct{}
	err    error
	gaveUp bool // the caller that made the call gave up before it was over
}

func newCache(k provider.Keyring, limits CacheLimits) *cache {
	limits.MaxAge = cmp.Or(max(limits.MaxAge, 0), defaultMaxAge)
	limits.MaxMessages = cmp.Or(max(limits.MaxMessages, 0), defaultMaxMessages)
	limits.MaxBytes = cmp.Or(max(limits.MaxBytes, 0), defaultMaxBytes)
	limits.MaxKeys = cmp.Or(max(limits.MaxKeys, 0), defaultMaxKeys)
	c := &cache{Keyring: k, limits: limits, calls: make(map[string]*call)}
	c.encrypting = keycache.New[string, *entry](&c.mu, limits.MaxKeys)
	c.decrypting = keycache.New[string, *entry](&c.mu, limits.MaxKeys)
	return c
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
	e, key, err := c.get(ctx, c.encrypting, id, func() (*entry, error) {
		made, err := c.Keyring.GenerateDataKey(ctx, encryptionContext)
		if err != nil {
			return nil, err
		}
		e := &entry{SecureBytes: made.PlaintextKey, made: made}
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

// cacheScope returns the scope of a request, which is empty if the keyring is no
// provider.ScopedKeyring.
func cacheScope(ctx context.Context, keyring provider.Keyring, encryptionContext map[string]string) (string, error) {
	if scoped, ok := keyring.(provider.ScopedKeyring); ok {
		return scoped.CacheScope(ctx, encryptionContext)
	}
	return "", nil
}

// scope returns the keyring's scope of a request, and the request's encryption context as bytes. It
// is called for hits, too, so a keyring that decides by ctx decides on each request.
func (c *cache) scope(ctx context.Context, encryptionContext map[string]string) (scope, pairs []byte, err error) {
	name, err := cacheScope(ctx, c.Keyring, encryptionContext)
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
	e, key, err := c.get(ctx, c.decrypting, id, func() (*entry, error) {
		key, err := c.Keyring.UnwrapDataKey(ctx, request)
		if err != nil {
			return nil, err
		}
		e := &entry{SecureBytes: key.PlaintextKey}
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
		e.evict()
	}
}

// get returns the entry of an identity, and a share of its data key. If several callers find none,
// one makes the call and the others wait for it.
func (c *cache) get(ctx context.Context, kept *keycache.Cache[string, *entry], identity []byte, ask func() (*entry, error)) (*entry, *provider.SecureBytes, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		c.mu.Lock()
		if e, ok := kept.Get(string(identity)); ok {
			key, err := e.Share()
			if err == nil {
				c.spend(e, 1, 0)
			}
			c.mu.Unlock()
			c.report(ctx, "hit")
			return e, key, err
		}
		pending := c.calls[string(identity)]
		if pending == nil {
			break
		}
		c.mu.Unlock()
		select {
		case <-pending.done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		// If the caller that made the call gave up, there is no result, and one of the others makes
		// the call again.
		if pending.err != nil && !pending.gaveUp {
			return nil, nil, pending.err
		}
	}
	id, pending := string(identity), &call{done: make(chan struct{}), err: errPanic}
	c.calls[id] = pending
	c.mu.Unlock()
	defer func() { // deferred, so that it happens even if the call panics
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, id)
		close(pending.done)
	}()

	c.report(ctx, "miss")
	e, err := ask()
	var key *provider.SecureBytes
	if err == nil {
		key, err = e.Share()
	}
	if pending.err, pending.gaveUp = err, ctx.Err() != nil; err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.id, e.kept = id, kept
	kept.Put(id, e, time.Now().Add(c.limits.MaxAge))
	c.spend(e, 1, 0)
	return e, key, nil
}

func (c *cache) report(ctx context.Context, result string) {
	if c.onRequest != nil {
		c.onRequest(ctx, result)
	}
}

var errPanic = errors.New("service: the call for a data key panicked")

// count adds bytes that a message encrypted under an entry's data key.
func (c *cache) count(e *entry, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spend(e, 0, bytes)
}

// spend records a use of an entry, and evicts the entry when it is used up.
func (c *cache) spend(e *entry, messages, bytes int64) {
	e.messages += messages
	e.bytes += bytes
	if e.made != nil && (e.messages >= c.limits.MaxMessages || e.bytes >= c.limits.MaxBytes) {
		e.evict()
	}
}

// evict removes an entry from the cache, unless another has taken its place.
func (e *entry) evict() {
	if current, ok := e.kept.Get(e.id); ok && current == e {
		e.kept.Drop(e.id)
	}
}

// close evicts all entries. It also keeps calls that are under way from adding entries.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.encrypting.Close()
	c.decrypting.Close()
}
