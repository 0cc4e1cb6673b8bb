package service_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/service"
)

func encrypt(t *testing.T, s service.Service, size int, pairs map[string]string) []byte {
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
		d := message.Decrypter{Keyrings: []provider.Unwrapper{s}}
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

		time.Sleep(5*time.Minute + time.Second)
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
	made, err := s.GenerateDataKey(t.Context(), nil)
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
		r.hang(true)
		leader, giveUp := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() {
			_, err := s.GenerateDataKey(leader, nil)
			require.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		var failed atomic.Int64
		for range 100 {
			callers.Go(func() {
				key, err := s.GenerateDataKey(t.Context(), nil)
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
		r.hang(false)
		callers.Wait()
		require.Zero(t, failed.Load())
		require.EqualValues(t, 2, r.calls.Load())

		r.fail(provider.ErrAccessDenied)
		_, err := s.GenerateDataKey(t.Context(), map[string]string{"another": "context"})
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		r.fail(nil)
		key, err := s.GenerateDataKey(t.Context(), map[string]string{"another": "context"})
		require.NoError(t, err, "a failure is not cached")
		require.NoError(t, key.Close())
	})
}

// If a key service answered with a wrong data key once, it is asked again. The wrong one is not
// used until it expires.
func TestDataKeyThatDoesNotFitIsForgotten(t *testing.T) {
	r := newRemote(t, 1)
	s := service.New(r, service.Config{Cache: &service.CacheLimits{}})
	defer s.Close()
	stored := encrypt(t, service.New(r, service.Config{}), 10, nil)
	d := message.Decrypter{Keyrings: []provider.Unwrapper{s}}
	r.lie = true
	r.calls.Store(0)
	for i := range 3 {
		_, _, err := d.Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		require.EqualValues(t, i+1, r.calls.Load())
	}
	r.lie = false
	for range 3 {
		_, _, err := d.Decrypt(t.Context(), stored, nil)
		require.NoError(t, err)
		require.EqualValues(t, 4, r.calls.Load(), "the right one is kept")
	}

	// An attacker who changes a message can't cause a call of the key service for each reading of
	// it.
	for i := range stored {
		forged := bytes.Clone(stored)
		forged[i] ^= 1
		_, _, err := d.Decrypt(t.Context(), forged, nil)
		require.Error(t, err)
	}
	r.calls.Store(0)
	_, _, err := d.Decrypt(t.Context(), stored, nil)
	require.NoError(t, err)
	require.Zero(t, r.calls.Load(), "and its data key is still there")
}

// A caller whose context ends while it waits for another's call returns at once. A caller whose
// context has ended gets nothing, cached or not.
func TestWaitingForAnothersCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{Cache: &service.CacheLimits{}})
		defer s.Close()
		r.hang(true)
		var leader sync.WaitGroup
		leader.Go(func() {
			key, err := s.GenerateDataKey(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, key.Close())
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.GenerateDataKey(ctx, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, r.calls.Load())
		r.hang(false)
		leader.Wait()
		_, err = s.GenerateDataKey(ctx, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, service.StateClosed, s.State())
	})
}

// An outage is reported to all callers that wait for the call. None of them calls again.
func TestWaitersShareAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		s := service.New(r, service.Config{Cache: &service.CacheLimits{}})
		defer s.Close()
		r.hang(true)
		r.fail(context.DeadlineExceeded) // the provider's own
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				_, err := s.GenerateDataKey(t.Context(), nil)
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		synctest.Wait()
		r.hang(false)
		callers.Wait()
		require.EqualValues(t, 1, r.calls.Load())
	})
}

func TestWrappingPassesByTheCache(t *testing.T) {
	r := newRemote(t, 1)
	s := service.New(r, service.Config{Cache: &service.CacheLimits{MaxMessages: 4}})
	defer s.Close()
	e := message.Encrypter{Keyring: newRemote(t, 2), Recipients: []provider.Wrapper{s}}
	for i := range 6 {
		_, err := e.Encrypt(t.Context(), nil, nil)
		require.NoError(t, err)
		require.EqualValues(t, i+1, r.calls.Load())
	}
}

func TestTheCacheWithoutABreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRemote(t, 1)
		k := service.New(r, service.Config{NoBreaker: true, Cache: &service.CacheLimits{MaxMessages: 3}})
		e, d := message.Encrypter{Keyring: k}, message.Decrypter{Keyrings: []provider.Unwrapper{k}}
		for range 3 {
			stored, err := e.Encrypt(t.Context(), []byte("text"), nil)
			require.NoError(t, err)
			got, _, err := d.Decrypt(t.Context(), stored, nil)
			require.NoError(t, err)
			require.Equal(t, "text", string(got))
		}
		require.EqualValues(t, 2, r.calls.Swap(0), "one to encrypt, one to decrypt")
		require.NoError(t, k.Close())
		for _, key := range r.keys {
			require.True(t, closed(key))
		}
		_, err := e.Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		require.EqualValues(t, 1, r.calls.Load(), "it goes on without a cache")
	})
}

// A process that writes and reads for T tenants needs room for T data keys, not for twice as many.
func TestReadingEvictsNothingOfWriting(t *testing.T) {
	const tenants = 100
	r := newRemote(t, 1)
	s := service.New(r, service.Config{Cache: &service.CacheLimits{MaxKeys: tenants}})
	defer s.Close()
	for range 3 {
		for i := range tenants {
			pairs := map[string]string{"tenant": fmt.Sprint(i)}
			sealed, err := (&message.Encrypter{Keyring: s}).Encrypt(t.Context(), []byte("x"), pairs)
			require.NoError(t, err)
			_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{s}}).Decrypt(t.Context(), sealed, nil)
			require.NoError(t, err)
		}
	}
	require.EqualValues(t, 2*tenants, r.calls.Load())
}
