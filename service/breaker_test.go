package service_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

// bubble runs f in a bubble of testing/synctest.
func bubble(t *testing.T, f func(t *testing.T)) {
	if fips140.Enabled() {
		t.Skip("skipped: FIPS mode gathers entropy from the jitter of the clock, and a bubble's clock has none")
	}
	synctest.Test(t, f)
}

// changesHandler is a log of the changes of the breaker's state.
type changesHandler struct{ changes *[]string }

func (changesHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h changesHandler) Handle(_ context.Context, r slog.Record) error {
	states := make(map[string]string)
	r.Attrs(func(a slog.Attr) bool { states[a.Key] = a.Value.String(); return true })
	*h.changes = append(*h.changes, states["from"]+" → "+states["to"])
	return nil
}

func (h changesHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h changesHandler) WithGroup(string) slog.Handler { return h }

func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		var changes []string
		s := service.New(r, service.Config{Telemetry: service.Telemetry{Logger: slog.New(changesHandler{&changes})}})
		stored, err := (&message.Encrypter{Keyring: r}).Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)

		down := fmt.Errorf("no route: %w", provider.ErrProviderUnavailable)
		r.fail(down)
		r.calls.Store(0)
		for range service.Failures {
			require.Equal(t, service.StateClosed, s.State())
			err := entries["GenerateDataKey"](t.Context(), s, nil)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			require.NotErrorIs(t, err, service.ErrBreakerOpen)
		}
		require.EqualValues(t, service.Failures, r.calls.Load())
		require.Equal(t, service.StateOpen, s.State())

		r.fail(nil) // nobody knows yet
		time.Sleep(service.OpenFor - time.Second)
		for name, ask := range entries {
			err := ask(t.Context(), s, stored)
			require.ErrorIs(t, err, service.ErrBreakerOpen, name)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable, name)
		}
		require.EqualValues(t, service.Failures, r.calls.Load(), "an open breaker lets nothing through")

		// Half-open: one trial of 1,000.
		time.Sleep(2 * time.Second)
		require.Equal(t, service.StateHalfOpen, s.State())
		r.hang(true)
		var passed, refused atomic.Int64
		var callers sync.WaitGroup
		for range 1000 {
			callers.Go(func() {
				switch err := entries["GenerateDataKey"](t.Context(), s, nil); {
				case err == nil:
					passed.Add(1)
				case errors.Is(err, service.ErrBreakerOpen):
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		require.EqualValues(t, 999, refused.Load())
		require.EqualValues(t, service.Failures+1, r.calls.Load())
		r.hang(false)
		callers.Wait()
		require.EqualValues(t, 1, passed.Load())
		require.Equal(t, service.StateClosed, s.State())
		require.Equal(t, []string{"closed → open", "open → half-open", "half-open → closed"}, changes)
	})
}

func TestOnlyOutagesCount(t *testing.T) {
	r := newRemote(t, 1)
	s := service.New(r, service.Config{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	stored, err := (&message.Encrypter{Keyring: r}).Encrypt(t.Context(), []byte("text"), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	tampered := bytes.Clone(stored)
	tampered[len(tampered)-1] ^= 1
	foreign, err := (&message.Encrypter{Keyring: newRemote(t, 9)}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	d := message.Decrypter{Keyrings: []provider.Unwrapper{s}}
	for range 3 * service.Failures {
		require.ErrorIs(t, entries["GenerateDataKey"](cancelled, s, nil), context.Canceled)
		for _, b := range [][]byte{tampered, foreign, []byte("no message")} {
			_, _, err := d.Decrypt(t.Context(), b, nil)
			require.Error(t, err)
		}
		_, _, err = d.Decrypt(t.Context(), stored, map[string]string{"tenant": "43"})
		require.ErrorIs(t, err, provider.ErrContextMismatch)
		r.fail(provider.ErrAccessDenied)
		require.ErrorIs(t, entries["GenerateDataKey"](t.Context(), s, nil), provider.ErrAccessDenied)
		r.fail(nil)
	}
	require.Equal(t, service.StateClosed, s.State())

	// A cancelled or a refused call between outages does not end their row. A call that succeeds or
	// is answered does.
	outage := func() {
		r.fail(context.DeadlineExceeded)
		require.ErrorIs(t, entries["Encrypt"](t.Context(), s, nil), context.DeadlineExceeded)
		r.fail(nil)
	}
	for range service.Failures - 1 {
		outage()
	}
	require.NoError(t, entries["Encrypt"](t.Context(), s, nil))
	for range service.Failures - 1 {
		outage()
		require.ErrorIs(t, entries["Encrypt"](cancelled, s, nil), context.Canceled)
	}
	require.Equal(t, service.StateClosed, s.State())
	outage()
	require.Equal(t, service.StateOpen, s.State())
}

// patience is a caller, and what its call says about the key service.
type patience struct {
	caller func(ctx context.Context) (context.Context, context.CancelFunc)
	err    error // of the key service
	hangs  bool  // the key service does not answer before the caller gives up
	outage bool
	asks   bool // the key service is asked
}

func within(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, d) }
}

func cancelledAfter(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
	return func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(d, cancel)
		return ctx, func() { timer.Stop(); cancel() }
	}
}

func endedBefore(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx, cancel
}

var patiences = map[string]patience{
	"cancelled before the call":                     {caller: endedBefore, err: provider.ErrProviderUnavailable},
	"a deadline that was over before the call":      {caller: within(-time.Second), err: provider.ErrProviderUnavailable},
	"a deadline of 1 ms":                            {caller: within(time.Millisecond), hangs: true, asks: true},
	"a deadline of 100 ms":                          {caller: within(100 * time.Millisecond), hangs: true, asks: true},
	"a deadline just short of the fair wait":        {caller: within(service.FairWait - time.Millisecond), hangs: true, asks: true},
	"a short deadline, which the provider blames":   {caller: within(time.Second), err: provider.ErrProviderUnavailable, hangs: true, asks: true},
	"cancelled after 1 ms":                          {caller: cancelledAfter(time.Millisecond), hangs: true, asks: true},
	"cancelled after 20 s, for who knows":           {caller: cancelledAfter(20 * time.Second), hangs: true, asks: true},
	"a deadline of the fair wait":                   {caller: within(service.FairWait), hangs: true, outage: true, asks: true},
	"a deadline of 20 s":                            {caller: within(20 * time.Second), hangs: true, outage: true, asks: true},
	"any patience, refused at once":                 {caller: within(time.Hour), err: provider.ErrProviderUnavailable, outage: true, asks: true},
	"little patience, refused at once":              {caller: within(time.Millisecond), err: provider.ErrProviderUnavailable, outage: true, asks: true},
	"any patience, a deadline of the provider's":    {caller: within(time.Hour), err: context.DeadlineExceeded, outage: true, asks: true},
	"any patience, the provider's own cancellation": {caller: within(time.Hour), err: context.Canceled, asks: true},
	"any patience, access denied":                   {caller: within(time.Hour), err: provider.ErrAccessDenied, asks: true},
}

// ask makes the call that a caller of this patience makes.
func (p patience) ask(t *testing.T, r *remote, s service.Service) error {
	t.Helper()
	r.fail(p.err)
	r.hang(p.hangs)
	defer r.fail(nil)
	defer r.hang(false)
	ctx, cancel := p.caller(t.Context())
	defer cancel()
	r.calls.Store(0)
	err := entries["GenerateDataKey"](ctx, s, nil)
	require.Equal(t, p.asks, r.calls.Load() == 1)
	return err
}

func TestCallersOfEveryPatience(t *testing.T) {
	for name, p := range patiences {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRemote(t, 1)
				s := service.New(r, service.Config{})
				for range service.Failures {
					require.Equal(t, service.StateClosed, s.State())
					err := p.ask(t, r, s)
					require.Error(t, err)
					require.NotErrorIs(t, err, service.ErrBreakerOpen)
				}
				if p.outage {
					require.Equal(t, service.StateOpen, s.State())
				} else {
					require.Equal(t, service.StateClosed, s.State(), "nobody else is refused")
				}
			})
		})
	}
}

func TestTrialsOfEveryPatience(t *testing.T) {
	for name, p := range patiences {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRemote(t, 1)
				s := service.New(r, service.Config{})
				open(t, r, s)
				time.Sleep(service.OpenFor + time.Second)
				for range 3 { // a caller that gives up makes room for another trial
					require.Equal(t, service.StateHalfOpen, s.State())
					require.Error(t, p.ask(t, r, s))
					switch {
					case p.outage:
						require.Equal(t, service.StateOpen, s.State())
						time.Sleep(service.OpenFor + time.Second)
					case errors.Is(p.err, provider.ErrAccessDenied):
						require.Equal(t, service.StateClosed, s.State(), "an answer shows that the key service is up")
						return
					}
				}
				require.Equal(t, service.StateHalfOpen, s.State())
				require.NoError(t, entries["GenerateDataKey"](t.Context(), s, nil))
				require.Equal(t, service.StateClosed, s.State())
			})
		})
	}
}

// open makes the breaker open.
func open(t *testing.T, r *remote, s service.Service) {
	t.Helper()
	r.fail(provider.ErrProviderUnavailable)
	for range service.Failures {
		require.ErrorIs(t, entries["GenerateDataKey"](t.Context(), s, nil), provider.ErrProviderUnavailable)
	}
	r.fail(nil)
	require.Equal(t, service.StateOpen, s.State())
}

// A caller without a deadline, whose trial the key service accepts and never answers, does not keep
// everybody else out for ever.
func TestTrialThatIsNeverAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{})
		open(t, r, s)
		time.Sleep(service.OpenFor + time.Second)
		r.hang(true)
		begin := time.Now()
		err := entries["GenerateDataKey"](context.WithoutCancel(t.Context()), s, nil)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		require.NotErrorIs(t, err, service.ErrBreakerOpen)
		require.Equal(t, service.OpenFor, time.Since(begin))
		require.Equal(t, service.StateOpen, s.State())
		r.hang(false)
		time.Sleep(service.OpenFor + time.Second)
		require.NoError(t, entries["GenerateDataKey"](t.Context(), s, nil))
		require.Equal(t, service.StateClosed, s.State())
	})
}

// Most callers of a crowd give up. The breaker stays closed while the key service answers, and
// opens when it does not.
func TestCrowdOfCallers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{})
		crowd := func() (refused, succeeded int64) {
			var no, yes atomic.Int64
			var callers sync.WaitGroup
			for i := range 1000 {
				callers.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*time.Second)
					defer cancel()
					switch err := entries["GenerateDataKey"](ctx, s, nil); {
					case err == nil:
						yes.Add(1)
					case errors.Is(err, service.ErrBreakerOpen):
						no.Add(1)
					}
				})
			}
			callers.Wait()
			return no.Load(), yes.Load()
		}
		r.slow(2500 * time.Millisecond) // which is over the patience of three in ten
		refused, succeeded := crowd()
		require.Zero(t, refused)
		require.EqualValues(t, 700, succeeded)
		require.Equal(t, service.StateClosed, s.State())

		r.hang(true)
		_, succeeded = crowd()
		require.Zero(t, succeeded)
		require.Equal(t, service.StateOpen, s.State())
		refused, _ = crowd()
		require.EqualValues(t, 900, refused, "all but those whose context has ended before")
	})
}

// A provider whose key service is down when the application starts serves once it is up.
func TestProviderThatIsDownAtStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		r.fail(provider.ErrProviderUnavailable)
		s := service.New(r, service.Config{Cache: &service.CacheLimits{}})
		defer s.Close()
		for range 2 * service.Failures {
			require.ErrorIs(t, entries["GenerateDataKey"](t.Context(), s, nil), provider.ErrProviderUnavailable)
		}
		require.EqualValues(t, service.Failures, r.calls.Load())
		r.fail(nil)
		time.Sleep(service.OpenFor + time.Second)
		require.NoError(t, entries["GenerateDataKey"](t.Context(), s, nil))
		require.Equal(t, service.StateClosed, s.State())
	})
}

// guarded is a provider that caches keys, and calls its key service only when the test says so.
type guarded struct {
	provider.EncryptionProvider
	call  *func(context.Context) error // nil if no call is needed
	guard provider.Guard
}

func (g *guarded) Guarded(guard provider.Guard) provider.EncryptionProvider {
	return &guarded{g.EncryptionProvider, g.call, guard}
}

func (g *guarded) HealthCheck(ctx context.Context) error {
	switch {
	case *g.call == nil:
		return nil
	case g.guard == nil:
		return (*g.call)(ctx)
	}
	return g.guard(ctx, "Call", *g.call)
}

// A Service on another provider has the breaker in front of that provider, though the first one's
// stands within its own.
func TestWithHasABreakerBeforeTheOther(t *testing.T) {
	var call func(context.Context) error
	s := service.New(&guarded{EncryptionProvider: newRemote(t, 1), call: &call}, service.Config{})
	defer s.Close()
	bare := newRemote(t, 1)
	bare.fail(provider.ErrProviderUnavailable)
	other := s.With(bare)
	for range 2 * service.Failures {
		require.ErrorIs(t, entries["GenerateDataKey"](t.Context(), other, nil), provider.ErrProviderUnavailable)
	}
	require.EqualValues(t, service.Failures, bare.calls.Load(), "the breaker refuses the rest")
	require.Equal(t, service.StateOpen, s.State())
}

// A Service on another provider that keeps keys has the breaker within it.
func TestWithHasABreakerWithinTheOther(t *testing.T) {
	s := service.New(newRemote(t, 1), service.Config{})
	defer s.Close()
	calls := 0
	call := func(context.Context) error { calls++; return provider.ErrProviderUnavailable }
	other := s.With(&guarded{EncryptionProvider: newRemote(t, 1), call: &call})
	for range 2 * service.Failures {
		require.ErrorIs(t, other.HealthCheck(t.Context()), provider.ErrProviderUnavailable)
	}
	require.Equal(t, service.Failures, calls, "the breaker refuses the rest")
	call = nil
	require.NoError(t, other.HealthCheck(t.Context()), "what needs no call is never refused")
}

func TestBreakerInsideAProvider(t *testing.T) {
	var call func(context.Context) error
	g := &guarded{EncryptionProvider: newRemote(t, 1), call: &call}
	s, other := service.New(g, service.Config{}), service.New(g, service.Config{})
	defer s.Close()
	defer other.Close()
	calls := 0
	down := func(context.Context) error { calls++; return provider.ErrProviderUnavailable }
	for range 2 * service.Failures {
		call = down
		require.ErrorIs(t, s.HealthCheck(t.Context()), provider.ErrProviderUnavailable)
		call = nil
		require.NoError(t, s.HealthCheck(t.Context()), "what needs no call is never refused, and does not count")
	}
	require.Equal(t, service.StateOpen, s.State())
	require.Equal(t, service.Failures, calls)
	call = down
	require.ErrorIs(t, s.HealthCheck(t.Context()), service.ErrBreakerOpen)
	require.Equal(t, service.StateClosed, other.State(), "each service has a breaker of its own")
	require.NotErrorIs(t, other.HealthCheck(t.Context()), service.ErrBreakerOpen)
	require.NotErrorIs(t, g.HealthCheck(t.Context()), service.ErrBreakerOpen)
}
