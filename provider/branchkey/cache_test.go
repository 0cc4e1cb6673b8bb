package branchkey_test

import (
	"context"
	"crypto/fips140"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// countedKMS is a KMS that takes a second for each Decrypt, counts them, and can be down.
type countedKMS struct {
	branchkey.KMS
	decrypted atomic.Int64
	down      atomic.Bool
}

func (k *countedKMS) Decrypt(ctx context.Context, keyARN string, blob []byte, pairs map[string]string) (*provider.SecureBytes, error) {
	k.decrypted.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if k.down.Load() {
		return nil, fmt.Errorf("%w: no route", provider.ErrProviderUnavailable)
	}
	return k.KMS.Decrypt(ctx, keyARN, blob, pairs)
}

// newCountedStore returns a key store without a network, for tests of time.
func newCountedStore(t *testing.T) (*testStore, *countedKMS) {
	t.Helper()
	keys, err := branchkey.NewLocalKMS(local.Config{Key: make([]byte, 32)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, keys.Close()) })
	counted := &countedKMS{KMS: keys}
	table := branchkey.NewFile(filepath.Join(t.TempDir(), "keys.db"))
	store := branchkey.StoreOf(table, counted, "")
	require.NoError(t, store.CreateTable(t.Context()))
	return &testStore{Store: store, table: table}, counted
}

// bubble runs a test whose clock is its own.
func bubble(t *testing.T, f func(t *testing.T)) {
	if fips140.Enabled() {
		t.Skip("skipped: FIPS mode gathers entropy from the jitter of the clock, and a bubble's clock has none")
	}
	synctest.Test(t, f)
}

func TestOneCallForEachTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, keys := newCountedStore(t)
		p := newProvider(t, store.Store, branchkey.Config{BranchKeyID: create(t, store.Store), TTL: time.Minute})
		require.EqualValues(t, 1, keys.decrypted.Load())
		for i := range 3 {
			var all sync.WaitGroup
			for range 100 { // at the same time
				all.Go(func() {
					stored, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("x"), nil)
					if err == nil {
						_, err = open(t.Context(), p, stored)
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			require.EqualValues(t, i+1, keys.decrypted.Load(), "the active version serves to decrypt, too")
			time.Sleep(time.Minute)
		}
	})
}

func TestStaleActiveIsNotUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, _ := newCountedStore(t)
		id := create(t, store.Store)
		begin := time.Now()
		p := newProvider(t, store.Store, branchkey.Config{BranchKeyID: id, TTL: time.Minute})
		d, err := store.Describe(t.Context(), id)
		require.NoError(t, err)
		first := d.Active.ID
		second, err := store.CreateVersion(t.Context(), id)
		require.NoError(t, err)
		uses := func(want string) {
			t.Helper()
			made, err := p.GenerateDataKey(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, made.Close())
			require.Equal(t, want, versionOf(made.EncryptedKey.Ciphertext))
		}
		uses(first)
		time.Sleep(time.Until(begin.Add(time.Minute - 1)))
		uses(first)
		time.Sleep(time.Nanosecond) // the TTL counts from before the branch key was asked for
		uses(second)
	})
}

func TestOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, keys := newCountedStore(t)
		id, never := create(t, store.Store), create(t, store.Store)
		s := service.New(newProvider(t, store.Store, branchkey.Config{Supplier: branchkey.ByPair("tenant"), TTL: time.Hour}), service.Config{})
		defer s.Close()
		pairs, others := map[string]string{"tenant": id}, map[string]string{"tenant": never}
		begin := time.Now()
		stored := seal(t, s, "before", pairs)

		keys.down.Store(true)
		for time.Since(begin) < 59*time.Minute {
			_, err := open(t.Context(), s, stored)
			require.NoError(t, err, "reads go on from the cache")
			seal(t, s, "during", pairs)
			// The breaker opens for branch keys that are not cached, and only for them.
			_, err = s.GenerateDataKey(t.Context(), others)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, service.StateOpen, s.State())
		time.Sleep(2 * time.Minute)
		failed := time.Now()
		for range 2 * outagesToOpen {
			_, err := open(t.Context(), s, stored)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
			_, err = s.GenerateDataKey(t.Context(), pairs)
			require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		}
		require.LessOrEqual(t, time.Since(failed), outagesToOpen*time.Second, "all later calls fail at once")

		keys.down.Store(false)
		time.Sleep(openFor + time.Second)
		got, err := open(t.Context(), s, stored)
		require.NoError(t, err)
		require.Equal(t, "before", got)
	})
}

func TestCacheIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, keys := newCountedStore(t)
		var ids []string
		for range 4 {
			ids = append(ids, create(t, store.Store))
		}
		p := newProvider(t, store.Store, branchkey.Config{Supplier: branchkey.ByPair("tenant"), Entries: 3})
		use := func(id string) { seal(t, p, "x", map[string]string{"tenant": id}) }
		for _, id := range ids[:3] {
			use(id)
			use(id)
		}
		require.EqualValues(t, 3, keys.decrypted.Load())
		use(ids[0])
		use(ids[3]) // in place of ids[1], which was used longest ago
		use(ids[0])
		use(ids[2])
		require.EqualValues(t, 4, keys.decrypted.Load())
		use(ids[1])
		require.EqualValues(t, 5, keys.decrypted.Load())
	})
}

func TestCallersGiveUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, keys := newCountedStore(t)
		p := newProvider(t, store.Store, branchkey.Config{BranchKeyID: create(t, store.Store), CheckLater: true})
		begin := time.Now()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() {
			_, err := p.GenerateDataKey(impatient, nil)
			if want := context.DeadlineExceeded; err == nil || time.Since(begin) != time.Second/2 {
				t.Errorf("%v after %v, want %v", err, time.Since(begin), want)
			}
		})
		time.Sleep(time.Second / 4)
		seal(t, p, "the other caller's request goes on", nil)
		require.Equal(t, time.Second, time.Since(begin))
		require.EqualValues(t, 1, keys.decrypted.Load())
		all.Wait()

		// When all have left, the request ends.
		late := newProvider(t, store.Store, branchkey.Config{BranchKeyID: create(t, store.Store), CheckLater: true})
		leaving, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second / 2); cancel() }()
		_, err := late.GenerateDataKey(leaving, nil)
		require.ErrorIs(t, err, context.Canceled)
		seal(t, late, "x", nil)
		require.EqualValues(t, 3, keys.decrypted.Load())
	})
}

func TestClosed(t *testing.T) {
	store, _ := newCountedStore(t)
	p, err := branchkey.ProviderOf(t.Context(), store.Store, branchkey.Config{BranchKeyID: create(t, store.Store), TTL: time.Hour})
	require.NoError(t, err)
	stored := seal(t, p, "x", nil)
	require.NoError(t, p.Close())
	_, err = open(t.Context(), p, stored)
	require.ErrorIs(t, err, provider.ErrClosed)
	_, err = p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrClosed)
}
