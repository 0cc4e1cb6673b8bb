package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"piko.sh/pikokms/provider"
)

// session is a client of the server with a token, which it keeps alive until it is closed.
type session struct {
	client *api.Client
	http   *http.Client
	method func() (api.AuthMethod, error) // nil if a token is configured

	life     context.Context // ends with close
	end      context.CancelFunc
	mu       sync.Mutex // guards the start of renewal
	renewal  sync.WaitGroup
	renewing bool // renewal has started

	again chan struct{} // holds one element while a call logs in after a refusal
	since time.Time     // when the last such login was; guarded by again
}

// minRetryWait is the shortest time before an attempt is made again.
const minRetryWait = 100 * time.Millisecond

func newSession(c Config) (*session, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("%w: the environment of HashiCorp's client: %w", provider.ErrInvalidKey, config.Error)
	}
	config.Address = c.Address
	config.MaxRetries = c.MaxRetries
	config.MinRetryWait, config.MaxRetryWait = minRetryWait, 4*minRetryWait // times the number of the attempt
	config.CheckRetry = func(ctx context.Context, response *http.Response, err error) (bool, error) {
		switch {
		case err != nil:
			provider.TraceOf(ctx).Failed(err)
		case response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests:
			provider.TraceOf(ctx).Failed(fmt.Errorf("HTTP %s", response.Status))
		}
		return api.DefaultRetryPolicy(ctx, response, err)
	}
	// HashiCorp's client bounds a call with all its attempts, this bounds each attempt.
	config.Timeout = 0
	config.HttpClient.Timeout = c.Timeout
	// It also follows redirects itself, but then forgets what it posted.
	config.DisableRedirects = true
	config.HttpClient.CheckRedirect = checkRedirect
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrInvalidKey, err)
	}
	config.HttpClient.Transport = counting{config.HttpClient.Transport}
	client.SetToken(c.Token)
	client.ClearNamespace()
	if c.Namespace != "" {
		client.SetNamespace(c.Namespace)
	}
	s := &session{client: client, http: config.HttpClient, method: c.Login, again: make(chan struct{}, 1)}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// counting is a transport that counts the requests, retries included.
type counting struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t counting) RoundTrip(request *http.Request) (*http.Response, error) {
	provider.TraceOf(request.Context()).Request()
	return t.RoundTripper.RoundTrip(request)
}

// CloseIdleConnections is for http.Client.CloseIdleConnections.
func (t counting) CloseIdleConnections() {
	if transport, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		transport.CloseIdleConnections()
	}
}

// checkRedirect follows the redirect of a standby server to the active one, but not to one without
// TLS.
func checkRedirect(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 1:
		return errors.New("the server redirects twice")
	case via[0].URL.Scheme == "https" && request.URL.Scheme != "https":
		return errors.New("the server redirects to an address without TLS")
	}
	return nil
}

// lease is how long a token lives, and whether that can be extended.
type lease struct {
	ttl       time.Duration // 0 for ever
	renewable bool
}

// open makes sure that the client has a token, and begins to keep it alive.
func (s *session) open(ctx context.Context) error {
	if s.isRenewing() {
		return nil
	}
	ctx, cancel := s.bound(ctx)
	defer cancel()
	granted, err := s.obtain(ctx)
	if err != nil {
		return err
	}
	if granted.ttl == 0 || !granted.renewable && s.method == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() == nil && !s.renewing {
		s.renewing = true
		s.renewal.Go(func() { s.renew(granted) })
	}
	return nil
}

func (s *session) isRenewing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewing
}

// bound returns a context that also ends with the session.
func (s *session) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// obtain logs in, or asks the server how long the configured token lives.
func (s *session) obtain(ctx context.Context) (lease, error) {
	if s.method != nil {
		return s.login(ctx)
	}
	found, err := s.client.Auth().Token().LookupSelfWithContext(ctx)
	if isStatus(err, http.StatusForbidden) {
		// The token is not valid, or it may not look itself up. The check of the key decides.
		return lease{}, nil
	}
	if err != nil {
		return lease{}, clientError(err)
	}
	ttl, err := found.TokenTTL()
	if err != nil {
		return lease{}, fmt.Errorf("%w: the server's answer about the token: %w", provider.ErrProviderUnavailable, err)
	}
	renewable, err := found.TokenIsRenewable()
	return lease{ttl, renewable && err == nil}, nil
}

func (s *session) login(ctx context.Context) (lease, error) {
	method, err := s.method()
	if err != nil {
		return lease{}, fmt.Errorf("%w: %w", provider.ErrAccessDenied, err)
	}
	got, err := s.client.Auth().Login(ctx, method)
	if err != nil {
		return lease{}, loginError(err)
	}
	return lease{time.Duration(got.Auth.LeaseDuration) * time.Second, got.Auth.Renewable}, nil
}

// loginAgain logs in after the server refused the token, at most once in a while, and reports
// whether it or another call did. A login that the end of the caller's context cut off does not
// count, so that one impatient caller does not keep all others from logging in.
func (s *session) loginAgain(ctx context.Context, refused string) bool {
	const atMostEvery = 30 * time.Second
	if s.method == nil {
		return false
	}
	select {
	case s.again <- struct{}{}:
		defer func() { <-s.again }()
	case <-ctx.Done():
		return false
	case <-s.life.Done():
		return false
	}
	if s.client.Token() != refused {
		return true // another call did
	}
	if time.Since(s.since) < atMostEvery {
		return false
	}
	bounded, cancel := s.bound(ctx)
	defer cancel()
	_, err := s.login(bounded)
	if err == nil || ctx.Err() == nil {
		s.since = time.Now()
	}
	return err == nil
}

// renew renews the token until the session is closed. When the token can't be renewed any more, it
// logs in again.
func (s *session) renew(granted lease) {
	const atLeast, atMost = time.Second, time.Minute // between attempts after a failure
	first := granted.ttl
	failures := 0
	for expires := time.Now().Add(granted.ttl); ; {
		left := time.Until(expires)
		pause := left * 2 / 3
		if failures > 0 {
			pause = min(atLeast<<min(failures-1, 6), atMost)
		}
		if failures > 0 && left > 0 {
			pause = min(pause, max(left/3, atLeast))
		}
		if !sleep(s.life, pause) {
			return
		}
		next, err := s.extend(granted, first)
		switch {
		case err == nil && next.ttl == 0:
			return // it lives for ever
		case err == nil:
			granted, failures = next, 0
			expires = time.Now().Add(next.ttl)
		case s.method == nil && time.Now().After(expires):
			return // nothing can bring the token back
		default:
			failures++
		}
	}
}

// extend renews the token, or logs in again if that gains less than half of the first time.
func (s *session) extend(granted lease, first time.Duration) (lease, error) {
	failure := errors.New("the token can't be renewed")
	if granted.renewable {
		var renewed *api.Secret
		if renewed, failure = s.client.Auth().Token().RenewSelfWithContext(s.life, 0); failure == nil && renewed != nil && renewed.Auth != nil {
			next := lease{time.Duration(renewed.Auth.LeaseDuration) * time.Second, renewed.Auth.Renewable}
			if s.method == nil || next.ttl >= first/2 {
				return next, nil
			}
		}
	}
	if s.method == nil {
		return lease{}, failure
	}
	return s.login(s.life)
}

// sleep waits, and reports false if the context ends before.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *session) ended() bool { return s.life.Err() != nil }

func (s *session) close() {
	s.end()
	s.mu.Lock()
	//lint:ignore SA2001 What holds the lock, such as the start of renewal, comes before the Wait.
	s.mu.Unlock()
	s.renewal.Wait()
	s.http.CloseIdleConnections()
}
