package branchkey

import (
	"context"
	"crypto/fips140"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

// TestKeysAreZeroed checks that no key outlives its TTL, its place in the cache or the cache.
func TestKeysAreZeroed(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("skipped: FIPS mode gathers entropy from the jitter of the clock, and a bubble's clock has none")
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCache(time.Minute, 2)
		keys := make(map[slot]*provider.SecureBytes)
		use := func(s slot) {
			t.Helper()
			got, err := c.get(t.Context(), s, func(context.Context) (*material, error) {
				key, err := provider.NewSecureBytes(make([]byte, branchKeySize))
				return &material{key: key, version: s.version}, err
			})
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, got.key.Close())
			c.mu.Lock()
			defer c.mu.Unlock()
			kept, ok := c.kept.Get(s)
			require.True(t, ok)
			keys[s] = kept.key
		}
		zeroed := func(s slot) bool {
			err := keys[s].WithAccess(func([]byte) error { return nil })
			if err != nil {
				require.ErrorIs(t, err, provider.ErrClosed)
			}
			return err != nil
		}
		a, b, d := slot{id: "a"}, slot{"b", uuid.UUID{1}}, slot{id: "d"}
		use(a)
		use(b)
		require.False(t, zeroed(a))
		use(d)
		require.True(t, zeroed(a), "evicted")
		require.False(t, zeroed(b))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, zeroed(b), "expired, though nobody asked for it")
		require.True(t, zeroed(d))
		use(d)
		require.False(t, zeroed(d))
		c.close()
		require.True(t, zeroed(d), "closed")
	})
}
