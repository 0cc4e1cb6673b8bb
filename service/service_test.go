package service_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// remote is a local key behind a connection that the test can make fail.
type remote struct {
	provider.Provider
	calls atomic.Int64
	mu    sync.Mutex
	err   error
	delay time.Duration
	lie   bool          // unwraps to a random key
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

// hang makes calls wait until they are let go or their context ends.
func (r *remote) hang(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.block != nil {
		close(r.block)
		r.block = nil
	}
	if on {
		r.block = make(chan struct{})
	}
}

// slow makes calls take some time.
func (r *remote) slow(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = d
}

func (r *remote) call(ctx context.Context) error {
	r.calls.Add(1)
	r.mu.Lock()
	err, block, delay := r.err, r.block, r.delay
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	return errors.Join(err, ctx.Err())
}

func (r *remote) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	key, err := r.Provider.GenerateDataKey(ctx, encryptionContext)
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

func (r *remote) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	lie := r.lie
	r.mu.Unlock()
	if lie {
		key := make([]byte, request.Size)
		_, _ = rand.Read(key) // never fails
		secret, err := provider.NewSecureBytes(key)
		return &provider.DataKey{PlaintextKey: secret}, err
	}
	return r.Provider.UnwrapDataKey(ctx, request)
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

// A Service has all methods of providers, whatever its own provider can do.
func TestWhatTheProviderCanNotDo(t *testing.T) {
	ctx := t.Context()
	r := newRemote(t, 1)
	s := service.New(struct{ provider.EncryptionProvider }{r}, service.Config{})
	defer s.Close()
	require.Empty(t, s.KeyID())
	require.False(t, s.EncryptsDirectly())
	require.False(t, s.CanReEncrypt(r))
	ciphertext, keyID, err := s.EncryptDirectly(ctx, []byte("x"), nil)
	require.NoError(t, err)
	require.Nil(t, ciphertext)
	require.Empty(t, keyID)
	scope, err := s.CacheScope(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, scope)
	current, err := s.IsCurrent(ctx, &provider.UnwrapDataKeyRequest{})
	require.NoError(t, err)
	require.False(t, current)

	_, err = s.DecryptDirectly(ctx, []byte("x"), nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	_, _, err = s.ReEncrypt(ctx, r, []byte("x"), nil)
	require.ErrorIs(t, err, provider.ErrInvalidProvider)
	_, err = s.GetKeyInfo(ctx, "")
	require.ErrorIs(t, err, provider.ErrInvalidProvider)
	_, err = s.UnwrapPikoV2(ctx, "")
	require.ErrorIs(t, err, provider.ErrInvalidProvider)
	_, err = s.UnwrapS3EC(ctx, &provider.S3ECDataKey{})
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.Zero(t, r.calls.Load(), "none of them asks the key service")

	require.NoError(t, s.HealthCheck(ctx), "by a data key")
	require.EqualValues(t, 2, r.calls.Load())
	info, err := service.New(r, service.Config{}).GetKeyInfo(ctx, "")
	require.NoError(t, err)
	require.NoError(t, info.Err)
	require.Equal(t, r.KeyID(), info.KeyID)
}

// entries are all ways to ask the provider something.
var entries = map[string]func(ctx context.Context, s service.Service, stored []byte) error{
	"GenerateDataKey": func(ctx context.Context, s service.Service, _ []byte) error {
		key, err := s.GenerateDataKey(ctx, nil)
		if err != nil {
			return err
		}
		return key.Close()
	},
	"UnwrapDataKey": func(ctx context.Context, s service.Service, stored []byte) error {
		_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{s}}).Decrypt(ctx, stored, nil)
		return err
	},
	"Encrypt": func(ctx context.Context, s service.Service, _ []byte) error {
		_, err := envelope.Seal(ctx, s, "x", nil)
		return err
	},
	"HealthCheck": func(ctx context.Context, s service.Service, _ []byte) error { return s.HealthCheck(ctx) },
	"EncryptBatch": func(ctx context.Context, s service.Service, _ []byte) error {
		_, err := s.EncryptBatch(ctx, []string{"x"}, nil)
		return err
	},
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
		s           service.Service
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

	var texts []string
	for _, record := range records[:20] {
		text, err := envelope.Encrypt(t.Context(), plain, record, pairs)
		require.NoError(t, err)
		texts = append(texts, text)
	}
	require.EqualValues(t, 20, r.calls.Swap(0))
	got, err := plain.DecryptBatch(t.Context(), texts, pairs, 4)
	require.NoError(t, err)
	require.Equal(t, records[:20], got)

	texts, err = plain.EncryptBatch(t.Context(), []string{"a", strings.Repeat("x", 10<<20), ""}, nil)
	require.ErrorIs(t, err, provider.ErrEncryptionFailed)
	require.NotEmpty(t, texts[0])
	require.Empty(t, texts[1], "it is too large for an envelope")
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
