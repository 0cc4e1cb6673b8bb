package service_test

import (
	"bytes"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/envelope"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// remote is a local key that can be reached over a line that fails when told to.
type remote struct {
	*local.Provider
	calls atomic.Int64
	mu    sync.Mutex
	err   error
	block chan struct{} // if not nil, calls wait for it
	keys  []*provider.SecureBytes
}

func newRemote(t testing.TB, seed byte) *remote {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{seed}, 32)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return &remote{Provider: p}
}

func (r *remote) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *remote) call(ctx context.Context) error {
	r.calls.Add(1)
	r.mu.Lock()
	err, block := r.err, r.block
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(err, ctx.Err())
}

func (r *remote) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	key, err := r.Provider.GenerateDataKey(ctx, request)
	if err == nil {
		r.mu.Lock()
		r.keys = append(r.keys, key.PlaintextKey)
		r.mu.Unlock()
	}
	return key, err
}

func (r *remote) WrapDataKey(ctx context.Context, key *provider.SecureBytes, pairs map[string]string) (header.EncryptedDataKey, error) {
	if err := r.call(ctx); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return r.Provider.WrapDataKey(ctx, key, pairs)
}

func (r *remote) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.SecureBytes, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Provider.UnwrapDataKey(ctx, request)
}

func (r *remote) Encrypt(ctx context.Context, request *provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Provider.Encrypt(ctx, request)
}

func TestConformance(t *testing.T) {
	for name, limits := range map[string]*service.CacheLimits{"without a cache": nil, "with a cache": {}} {
		t.Run(name, func(t *testing.T) {
			first := service.New(newRemote(t, 1), service.Config{Cache: limits})
			defer first.Close()
			providertest.Run(t,
				func(t *testing.T) provider.EncryptionProvider { return first },
				func(t *testing.T) provider.EncryptionProvider {
					return service.New(newRemote(t, 2), service.Config{})
				})
		})
	}
}

// entries are all ways to ask the provider something.
var entries = map[string]func(ctx context.Context, s *service.Service, stored []byte) error{
	"EncryptStream": func(ctx context.Context, s *service.Service, _ []byte) error {
		_, err := s.EncryptStream(ctx, io.Discard, &provider.EncryptRequest{})
		return err
	},
	"DecryptStream": func(ctx context.Context, s *service.Service, stored []byte) error {
		_, err := s.DecryptStream(ctx, bytes.NewReader(stored))
		return err
	},
	"Encrypt": func(ctx context.Context, s *service.Service, _ []byte) error {
		_, err := s.Encrypt(ctx, &provider.EncryptRequest{Plaintext: "x"})
		return err
	},
	"HealthCheck": func(ctx context.Context, s *service.Service, _ []byte) error { return s.HealthCheck(ctx) },
	"EncryptBatch": func(ctx context.Context, s *service.Service, _ []byte) error {
		_, err := s.EncryptBatch(ctx, []string{"x"}, nil)
		return err
	},
}

// bubble runs f in a bubble of testing/synctest.
func bubble(t *testing.T, f func(t *testing.T)) {
	if fips140.Enabled() {
		t.Skip("skipped: FIPS mode gathers entropy from the jitter of the clock, and a bubble's clock has none")
	}
	synctest.Test(t, f)
}

func TestBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		var changes []string
		s := service.New(r, service.Config{OnStateChange: func(from, to service.State) { changes = append(changes, fmt.Sprint(from, " → ", to)) }})
		stored, err := (&message.Encrypter{Keyring: r}).Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)

		down := fmt.Errorf("no route: %w", provider.ErrProviderUnavailable)
		r.fail(down)
		r.calls.Store(0)
		for range service.Failures {
			require.Equal(t, service.StateClosed, s.State())
			err := entries["EncryptStream"](t.Context(), s, nil)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			require.NotErrorIs(t, err, service.ErrOpen)
		}
		require.EqualValues(t, service.Failures, r.calls.Load())
		require.Equal(t, service.StateOpen, s.State())

		r.fail(nil) // nobody knows yet
		time.Sleep(service.OpenFor - time.Second)
		for name, ask := range entries {
			err := ask(t.Context(), s, stored)
			require.ErrorIs(t, err, service.ErrOpen, name)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable, name)
		}
		require.EqualValues(t, service.Failures, r.calls.Load(), "an open breaker lets nothing through")

		// Half-open: one trial of 1,000.
		time.Sleep(2 * time.Second)
		require.Equal(t, service.StateHalfOpen, s.State())
		r.block = make(chan struct{})
		var passed, refused atomic.Int64
		var callers sync.WaitGroup
		for range 1000 {
			callers.Go(func() {
				switch err := entries["EncryptStream"](t.Context(), s, nil); {
				case err == nil:
					passed.Add(1)
				case errors.Is(err, service.ErrOpen):
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		require.EqualValues(t, 999, refused.Load())
		require.EqualValues(t, service.Failures+1, r.calls.Load())
		close(r.block)
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
	d := message.Decrypter{Keyrings: []provider.Keyring{s}}
	for range 3 * service.Failures {
		require.ErrorIs(t, entries["EncryptStream"](cancelled, s, nil), context.Canceled)
		for _, b := range [][]byte{tampered, foreign, []byte("no message")} {
			_, _, err := d.Decrypt(t.Context(), b, nil)
			require.Error(t, err)
		}
		_, _, err = d.Decrypt(t.Context(), stored, map[string]string{"tenant": "43"})
		require.ErrorIs(t, err, provider.ErrContextMismatch)
		r.fail(provider.ErrAccessDenied)
		require.ErrorIs(t, entries["EncryptStream"](t.Context(), s, nil), provider.ErrAccessDenied)
		r.fail(nil)
	}
	require.Equal(t, service.StateClosed, s.State())

	// A cancelled or a refused call between outages does not end their row; one that succeeds, or is answered, does.
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

func encrypt(t *testing.T, s *service.Service, size int, pairs map[string]string) []byte {
	t.Helper()
	stored, err := (&message.Encrypter{Keyring: s}).Encrypt(t.Context(), make([]byte, size), pairs)
	require.NoError(t, err)
	return stored
}

func closed(key *provider.SecureBytes) bool {
	return errors.Is(key.WithAccess(func([]byte) error { return nil }), provider.ErrClosed)
}

func TestCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{Cache: &service.CacheLimits{MaxKeys: 2, MaxMessages: 10, MaxBytes: 1000}})
		defer s.Close()
		d := message.Decrypter{Keyrings: []provider.Keyring{s}}
		asked := func(want int64, what string) {
			t.Helper()
			require.Equal(t, want, r.calls.Swap(0), what)
		}
		var all [][]byte
		for range 10 {
			all = append(all, encrypt(t, s, 10, nil))
		}
		asked(1, "one data key for 10 messages")
		for _, stored := range all {
			got, _, err := d.Decrypt(t.Context(), stored, nil)
			require.NoError(t, err)
			require.Len(t, got, 10)
		}
		asked(1, "and one call to read them")
		require.True(t, closed(r.keys[0]), "used up, the key to encrypt is gone")
		encrypt(t, s, 10, nil)
		asked(1, "the 11th message has another")

		encrypt(t, s, 2000, nil)
		asked(0, "")
		encrypt(t, s, 10, nil)
		asked(1, "over MaxBytes")

		encrypt(t, s, 1, map[string]string{"tenant": "1"})
		encrypt(t, s, 1, map[string]string{"tenant": "2"})
		asked(2, "another context is another data key")
		encrypt(t, s, 1, map[string]string{"tenant": "1"})
		asked(0, "")
		encrypt(t, s, 1, nil)
		asked(1, "the one not used for longest gave way")

		time.Sleep(service.DefaultMaxAge + time.Second)
		synctest.Wait()
		for _, key := range r.keys {
			require.True(t, closed(key), "too old, and zeroed without anyone asking")
		}
		encrypt(t, s, 1, nil)
		asked(1, "too old")

		signed := message.Encrypter{Keyring: s, Suite: header.AES256GCMHKDFSHA512CommitKeyECDSAP384}
		for range 3 {
			_, err := signed.Encrypt(t.Context(), nil, nil)
			require.NoError(t, err)
		}
		asked(3, "signed messages pass by the cache")

		encrypt(t, s, 1, nil)
		require.NoError(t, s.Close())
		for _, key := range r.keys[:len(r.keys)-3] {
			require.True(t, closed(key))
		}
		r.calls.Store(0)
		encrypt(t, s, 1, nil)
		encrypt(t, s, 1, nil)
		asked(2, "closed, it is a service without a cache")
	})
}

// A data key that is evicted while a message is under way serves that message to its end.
func TestEvictionUnderWay(t *testing.T) {
	r := newRemote(t, 1)
	s := service.New(r, service.Config{Cache: &service.CacheLimits{MaxMessages: 1}})
	made, err := s.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{})
	require.NoError(t, err)
	require.True(t, closed(r.keys[0]))
	require.False(t, closed(made.PlaintextKey))
	require.NoError(t, made.Close())
}

func TestConcurrentMissesMakeOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{Cache: &service.CacheLimits{}})
		defer s.Close()
		r.block = make(chan struct{})
		leader, giveUp := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() {
			_, err := s.GenerateDataKey(leader, &provider.GenerateDataKeyRequest{})
			require.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		var failed atomic.Int64
		for range 100 {
			callers.Go(func() {
				key, err := s.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{})
				if err != nil {
					failed.Add(1)
					return
				}
				_ = key.Close()
			})
		}
		synctest.Wait()
		require.EqualValues(t, 1, r.calls.Load())
		giveUp()
		synctest.Wait()
		require.EqualValues(t, 2, r.calls.Load(), "who waited for a caller that gave up asks in its place")
		close(r.block)
		callers.Wait()
		require.Zero(t, failed.Load())
		require.EqualValues(t, 2, r.calls.Load())

		r.block = nil
		r.fail(provider.ErrAccessDenied)
		_, err := s.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{KeySpec: "AES_128"})
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		r.fail(nil)
		key, err := s.GenerateDataKey(t.Context(), &provider.GenerateDataKeyRequest{KeySpec: "AES_128"})
		require.NoError(t, err, "a failure is not cached")
		require.NoError(t, key.Close())
	})
}

func TestBatches(t *testing.T) {
	r := newRemote(t, 1)
	plain, cached := service.New(r, service.Config{}), service.New(r, service.Config{Cache: &service.CacheLimits{}})
	defer cached.Close()
	pairs := map[string]string{"table": "customers"}
	records := make([]string, 1000)
	for i := range records {
		records[i] = fmt.Sprintf("record %d", i)
	}
	for _, c := range []struct {
		s           *service.Service
		first, more int64
	}{{plain, 1, 1}, {cached, 1, 0}} {
		r.calls.Store(0)
		texts, err := c.s.EncryptBatch(t.Context(), records, pairs)
		require.NoError(t, err)
		require.Equal(t, c.first, r.calls.Swap(0))
		_, err = c.s.EncryptBatch(t.Context(), records, pairs)
		require.NoError(t, err)
		require.Equal(t, c.more, r.calls.Swap(0))

		for _, concurrency := range []int{0, 8} {
			got, err := c.s.DecryptBatch(t.Context(), texts, pairs, concurrency)
			require.NoError(t, err)
			require.Equal(t, records, got)
		}
		require.Equal(t, c.first+c.more, r.calls.Swap(0))

		one, err := (&envelope.Decrypter{Providers: []provider.EncryptionProvider{r.Provider}}).Decrypt(t.Context(), texts[7], pairs)
		require.NoError(t, err)
		require.Equal(t, records[7], one)

		_, err = c.s.DecryptBatch(t.Context(), texts[:2], map[string]string{"table": "orders"}, 1)
		require.ErrorIs(t, err, provider.ErrContextMismatch)
		texts[3], texts[5] = "no envelope", texts[5][:len(texts[5])-8]
		got, err := c.s.DecryptBatch(t.Context(), texts[:10], pairs, 3)
		batchErr, ok := errors.AsType[*service.BatchError](err)
		require.True(t, ok)
		require.ErrorContains(t, err, "2 of 10 items failed, the first of them item 3: ")
		for i := range 10 {
			require.Equal(t, i == 3 || i == 5, batchErr.Errors[i] != nil)
			require.Equal(t, i == 3 || i == 5, got[i] == "")
		}
	}

	// A batch spends the messages of a cached data key like anyone else.
	bounded := service.New(r, service.Config{Cache: &service.CacheLimits{MaxMessages: 400}})
	defer bounded.Close()
	r.calls.Store(0)
	_, err := bounded.EncryptBatch(t.Context(), records, pairs)
	require.NoError(t, err)
	require.EqualValues(t, 3, r.calls.Swap(0))

	texts, err := plain.EncryptBatchDirect(t.Context(), records[:20], pairs, 4)
	require.NoError(t, err)
	require.EqualValues(t, 20, r.calls.Swap(0))
	got, err := plain.DecryptBatch(t.Context(), texts, pairs, 4)
	require.NoError(t, err)
	require.Equal(t, records[:20], got)

	texts, err = plain.EncryptBatch(t.Context(), []string{"a", "", "c"}, nil)
	require.ErrorIs(t, err, provider.ErrEmptyPlaintext)
	require.NotEmpty(t, texts[0])
	require.Empty(t, texts[1])
	require.NotEmpty(t, texts[2])
	r.calls.Store(0)
	_, err = plain.EncryptBatch(t.Context(), []string{"a"}, map[string]string{"aws-crypto-x": ""})
	require.ErrorIs(t, err, header.ErrInvalidContext)
	require.Zero(t, r.calls.Load())
	texts, err = plain.EncryptBatch(t.Context(), nil, nil)
	require.NoError(t, err)
	require.Empty(t, texts)
	r.fail(provider.ErrKeyDisabled)
	texts, err = plain.EncryptBatch(t.Context(), []string{"a"}, nil)
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
	require.Nil(t, texts)
	r.fail(nil)
	other := service.New(newRemote(t, 2), service.Config{})
	texts, err = other.EncryptBatch(t.Context(), []string{"a"}, nil)
	require.NoError(t, err)
	_, err = plain.DecryptBatch(t.Context(), texts, nil, 1)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	require.False(t, strings.Contains(err.Error(), "a\""))
}

// An open breaker refuses without asking anyone.
func BenchmarkOpenBreaker(b *testing.B) {
	r := newRemote(b, 1)
	s := service.New(r, service.Config{})
	r.fail(provider.ErrProviderUnavailable)
	for range service.Failures {
		_ = entries["Encrypt"](b.Context(), s, nil)
	}
	for b.Loop() {
		if err := entries["EncryptStream"](b.Context(), s, nil); !errors.Is(err, service.ErrOpen) {
			b.Fatal(err)
		}
	}
}

// smallObjects returns what encrypts an object of 1 KiB, and what decrypts it, under a cached data key: from memory to memory.
func smallObjects(t testing.TB) (encrypt, decrypt func() error) {
	s := service.New(newRemote(t, 1), service.Config{Cache: &service.CacheLimits{MaxMessages: 1 << 40}})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	e, d := &message.Encrypter{Keyring: s}, &message.Decrypter{Keyrings: []provider.Keyring{s}}
	ctx, plaintext := t.Context(), make([]byte, 1024)
	var src bytes.Reader
	var stored, opened bytes.Buffer
	encrypt = func() error {
		src.Reset(plaintext)
		stored.Reset()
		r, err := e.NewReader(ctx, &src, nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&stored)
		return err
	}
	decrypt = func() error {
		src.Reset(stored.Bytes())
		opened.Reset()
		r, err := d.NewReader(ctx, &src, nil)
		if err != nil {
			return err
		}
		_, err = r.WriteTo(&opened)
		return err
	}
	require.NoError(t, encrypt())
	require.NoError(t, decrypt())
	require.Equal(t, plaintext, opened.Bytes())
	return encrypt, decrypt
}

// A small object under a cached data key.
func BenchmarkCachedDataKey(b *testing.B) {
	encrypt, decrypt := smallObjects(b)
	for name, run := range map[string]func() error{"Encrypt": encrypt, "Decrypt": decrypt} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
		})
	}
}
