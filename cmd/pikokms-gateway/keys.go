package main

import (
	"cmp"
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
	bucket  string // the only one with KEYs; empty means all
	rules   []rule // that of the longest place first
	bind    bool
	options []pikokms.Option

	services []*keyService
	cached   sync.Map // of a place, an *encrypted.Key
}

// rule is which KEYs a place has. The first encrypts, and all decrypt.
type rule struct {
	bucket, prefix string // both are empty for all that has no rule of its own
	keyrings       []*keyService
}

// keyService is an open KEY with a circuit breaker.
type keyService struct {
	*service.Service
	name     string // as logs may show it
	kind     keyurl.Service
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
	add := func(flag, bucket, prefix, text string) error {
		s := opened[text]
		if s == nil {
			if s, err = openKey(ctx, text, cache); err != nil {
				return fmt.Errorf("%s: %w", flag, err)
			}
			opened[text] = s
			k.services = append(k.services, s)
		}
		i := slices.IndexFunc(k.rules, func(r rule) bool { return r.bucket == bucket && r.prefix == prefix })
		if i < 0 {
			i = len(k.rules)
			k.rules = append(k.rules, rule{bucket: bucket, prefix: prefix})
		}
		k.rules[i].keyrings = append(k.rules[i].keyrings, s)
		return nil
	}
	for _, text := range c.keys {
		if err := add("-k", "", "", text); err != nil {
			return k, err
		}
	}
	for _, text := range c.keysFor {
		place, key, ok := strings.Cut(text, "=")
		bucket, prefix, _ := strings.Cut(place, "/")
		if !ok || bucket == "" || strings.Contains(bucket, ":") {
			return k, fmt.Errorf("--key-for: write BUCKET=KEY or BUCKET/PREFIX=KEY")
		}
		if err := add("--key-for "+place, bucket, prefix, key); err != nil {
			return k, err
		}
	}
	slices.SortStableFunc(k.rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(len(b.bucket), len(a.bucket)), cmp.Compare(len(b.prefix), len(a.prefix)))
	})
	return k, nil
}

func openKey(ctx context.Context, text string, cache *service.CacheLimits) (*keyService, error) {
	services := keyservices.All()
	u, err := services.ParseURL(text)
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
	parsed, err := services.Parse(u.String())
	if err != nil {
		return nil, err
	}
	if parsed.Pair != "" {
		return nil, fmt.Errorf("%w: %s takes its branch key from the pair %q, which objects of the gateway do not have; name the branch key", provider.ErrInvalidKey, parsed, parsed.Pair)
	}
	keyring, err := parsed.Open(ctx, keyurl.Options{CheckLater: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", parsed, err)
	}
	p, ok := keyring.(provider.EncryptionProvider)
	if !ok {
		return nil, fmt.Errorf("%w: %s only decrypts", provider.ErrKeyUsage, parsed)
	}
	s := &keyService{name: parsed.String(), kind: parsed.Service}
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

// check asks for each KEY that encrypts whether it can be used. A key service that does not answer
// is logged: it may be there when it is needed.
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

// of returns what encrypts and decrypts an object. It is nil if the object's place has no KEY.
func (k *keys) of(bucket, key string) (*encrypted.Key, error) {
	if k.bucket != "" && bucket != k.bucket {
		return nil, nil
	}
	i := slices.IndexFunc(k.rules, func(r rule) bool {
		return r.bucket == "" || r.bucket == bucket && strings.HasPrefix(key, r.prefix)
	})
	if i < 0 {
		return nil, nil
	}
	type place struct {
		rule   int
		bucket string
	}
	at := place{rule: i}
	options := k.options
	if k.bind {
		at.bucket = bucket
		options = append(slices.Clone(options), pikokms.BindObjectName(bucket))
	}
	if cached, ok := k.cached.Load(at); ok {
		return cached.(*encrypted.Key), nil
	}
	keyrings := make([]provider.Unwrapper, len(k.rules[i].keyrings))
	for n, s := range k.rules[i].keyrings {
		keyrings[n] = s
	}
	made, err := encrypted.NewKey(message.Encrypter{Keyring: k.rules[i].keyrings[0]}, message.Decrypter{Keyrings: keyrings}, options...)
	if err != nil {
		return nil, err
	}
	cached, _ := k.cached.LoadOrStore(at, made)
	return cached.(*encrypted.Key), nil
}

// spanKey is the key of a request's span in the context of the engine, which takes no values under
// keys of other packages.
type spanKey struct{}

func traced(ctx context.Context) context.Context {
	if span, ok := ctx.Value(spanKey{}).(trace.Span); ok {
		return trace.ContextWithSpan(ctx, span)
	}
	return ctx
}

// GenerateDataKey is the Service's, within the trace of the request.
func (s *keyService) GenerateDataKey(ctx context.Context, pairs map[string]string) (*provider.DataKey, error) {
	return s.Service.GenerateDataKey(traced(ctx), pairs)
}

// UnwrapDataKey is the Service's, within the trace of the request. The key service is asked only
// about data keys that such a service wrapped.
func (s *keyService) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	begins := func(id string) bool { return strings.HasPrefix(request.EncryptedKey.ProviderID, id) }
	if ids := s.kind.ProviderIDs; len(ids) > 0 && !slices.ContainsFunc(ids, begins) {
		return nil, provider.ErrUntrustedKey
	}
	return s.Service.UnwrapDataKey(traced(ctx), request)
}
