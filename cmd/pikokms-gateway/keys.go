package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/service"
)

// checkTime is how long a key service has to answer when the gateway starts.
const checkTime = 10 * time.Second

// keys are the KEYs of all places.
type keys struct {
	bucket  string // the only bucket that has KEYs; empty means that all may
	rules   []rule
	bind    bool
	options []pikokms.Option

	services []*keyService

	mu     sync.Mutex
	cached map[cacheID]*encrypted.Key
}

// rule states the KEYs of a place. The first encrypts, and all decrypt.
type rule struct {
	place    *place // nil for objects that no other rule matches
	keyrings []*keyService
}

// cacheID identifies a Key without pairs.
type cacheID struct {
	rule   int
	bucket string // empty unless names are bound
}

// maxCached bounds the Keys that are kept, since clients can name any number of buckets that do not
// exist.
const maxCached = 1000

// keyService is an open KEY with a circuit breaker.
type keyService struct {
	service.Service
	name     string // as logs may show it
	kind     keyurl.Service
	pair     string    // name of the pair whose value picks a branch key; may be empty
	provider io.Closer // may be nil
}

// openKeys opens the KEYs of the configuration, each once. It asks no key service.
func openKeys(ctx context.Context, c *config) (_ *keys, err error) {
	k := &keys{bind: c.bindNames}
	if c.allowPlaintext {
		k.options = append(k.options, pikokms.AllowPlaintext())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	var cache *service.CacheLimits
	if c.dataKeyCache > 0 {
		cache = &service.CacheLimits{MaxAge: c.dataKeyCache}
	}
	opened := make(map[string]*keyService)
	add := func(flag string, at *place, text string) error {
		s := opened[text]
		if s == nil {
			if s, err = openKey(ctx, text, cache); err != nil {
				return fmt.Errorf("%s: %w", flag, err)
			}
			opened[text] = s
			k.services = append(k.services, s)
		}
		if s.pair != "" && !at.has(s.pair) {
			return fmt.Errorf("%s: %w: %s takes its branch key from the pair %q: have {%s} in the place, as in --key-for 'BUCKET/{%s}/=KEY', or name the branch key", flag, provider.ErrInvalidKey, s.name, s.pair, s.pair, s.pair)
		}
		for i, r := range k.rules {
			switch {
			case r.place.String() == at.String():
				k.rules[i].keyrings = append(r.keyrings, s)
				return nil
			case r.place.equal(at):
				return fmt.Errorf("%s: it is the same place as %s", flag, r.place)
			}
		}
		k.rules = append(k.rules, rule{at, []*keyService{s}})
		return nil
	}
	for _, text := range c.keys {
		if err := add("-k", nil, text); err != nil {
			return k, err
		}
	}
	for _, text := range c.keysFor {
		where, key, ok := strings.Cut(text, "=")
		if bucket, _, _ := strings.Cut(where, "/"); !ok || bucket == "" || strings.Contains(bucket, ":") {
			return k, errors.New("--key-for: write BUCKET=KEY or BUCKET/PREFIX=KEY")
		}
		parsed, err := parsePlace(where)
		if err != nil {
			return k, fmt.Errorf("--key-for %s: %w", where, err)
		}
		if err := add("--key-for "+where, parsed, key); err != nil {
			return k, err
		}
	}
	return k, nil
}

func openKey(ctx context.Context, text string, cache *service.CacheLimits) (*keyService, error) {
	services := keyservices.All()
	u, err := keyurl.ParseURL(text, services...)
	if err != nil {
		return nil, err
	}
	if path, err := url.PathUnescape(u.Opaque); err == nil && path != "" {
		// The engine changes the working folder, and a table of branch keys is opened time and again.
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		u.Opaque = (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()
	}
	parsed, err := keyurl.Parse(u.String(), services...)
	if err != nil {
		return nil, err
	}
	keyring, err := parsed.Open(ctx, keyurl.Options{CheckLater: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", parsed, err)
	}
	p, ok := keyring.(provider.EncryptionProvider)
	if !ok {
		return nil, fmt.Errorf("%w: %s only decrypts", provider.ErrKeyUsage, parsed)
	}
	s := &keyService{name: parsed.String(), kind: parsed.Service, pair: parsed.Pair}
	s.provider, _ = keyring.(io.Closer)
	s.Service = service.New(p, service.Config{Cache: cache, Telemetry: service.Telemetry{
		TracerProvider: otel.GetTracerProvider(), MeterProvider: otel.GetMeterProvider(), Logger: slog.Default().With("key", s.name),
	}})
	return s, nil
}

// Close zeroes the keys in memory.
func (k *keys) Close() (err error) {
	for _, s := range k.services {
		err = errors.Join(err, s.Service.Close())
		if s.provider != nil {
			err = errors.Join(err, s.provider.Close())
		}
	}
	return err
}

// check checks that each KEY that encrypts can be used. A key service that does not answer is only
// logged, since it may be up when it is needed.
func (k *keys) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	for _, r := range k.rules {
		s := r.keyrings[0]
		err := s.HealthCheck(ctx)
		if errors.Is(err, provider.ErrProviderUnavailable) || ctx.Err() != nil {
			slog.Warn("the key service does not answer; requests are tried all the same", "key", s.name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("key %s: %w", s.name, err)
		}
	}
	return nil
}

// forObject returns the Key of an object. It is nil if no KEY is for the object's place.
func (k *keys) forObject(bucket, key string) (*encrypted.Key, error) {
	if k.bucket != "" && bucket != k.bucket {
		return nil, nil
	}
	i, found := k.nearest(bucket, key)
	if i < 0 {
		return nil, nil
	}
	made, err := k.keyFor(i, bucket)
	if err != nil || len(found.pairs) == 0 {
		return made, err
	}
	return made.With(found.pairs), nil
}

// nearest returns the index of the rule whose place matches an object most closely, or -1.
func (k *keys) nearest(bucket, key string) (best int, found match) {
	best = -1
	for i, r := range k.rules {
		if m, ok := r.place.match(bucket, key); ok && (best < 0 || m.nearer(found)) {
			best, found = i, m
		}
	}
	return best, found
}

// keyFor returns the Key of a rule for objects of a bucket, without pairs.
func (k *keys) keyFor(i int, bucket string) (*encrypted.Key, error) {
	id, options := cacheID{rule: i}, k.options
	if k.bind {
		id.bucket = bucket
		options = append(slices.Clone(options), pikokms.BindObjectName(bucket))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if made, ok := k.cached[id]; ok {
		return made, nil
	}
	keyrings := make([]provider.Unwrapper, len(k.rules[i].keyrings))
	for n, s := range k.rules[i].keyrings {
		keyrings[n] = s
	}
	made, err := encrypted.NewKey(message.Encrypter{Keyring: k.rules[i].keyrings[0]}, message.Decrypter{Keyrings: keyrings}, options...)
	if err != nil {
		return nil, err
	}
	if k.cached == nil || len(k.cached) >= maxCached {
		k.cached = make(map[cacheID]*encrypted.Key)
	}
	k.cached[id] = made
	return made, nil
}

// spanKey is the key of a request's span in the context of the engine, which takes no values under
// keys of other packages.
type spanKey struct{}

// traced returns ctx with the span of its request, if it has one.
func traced(ctx context.Context) context.Context {
	if span, ok := ctx.Value(spanKey{}).(trace.Span); ok {
		return trace.ContextWithSpan(ctx, span)
	}
	return ctx
}

// GenerateDataKey calls the Service within the trace of the request.
func (s *keyService) GenerateDataKey(ctx context.Context, pairs map[string]string) (*provider.DataKey, error) {
	return s.Service.GenerateDataKey(traced(ctx), pairs)
}

// UnwrapDataKey calls the Service within the trace of the request. A key service is asked only
// about data keys that a service of its kind wrapped.
func (s *keyService) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	begins := func(id string) bool { return strings.HasPrefix(request.EncryptedKey.ProviderID, id) }
	if ids := s.kind.ProviderIDs; len(ids) > 0 && !slices.ContainsFunc(ids, begins) {
		return nil, provider.ErrUntrustedKey
	}
	return s.Service.UnwrapDataKey(traced(ctx), request)
}
