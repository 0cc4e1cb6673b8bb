package keycache_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/keycache"
)

// key is a value that counts how often it is closed.
type key struct{ closed int }

func (k *key) Close() error {
	k.closed++
	return nil
}

// TestValuesAreClosedOnce checks each way in which a Cache drops a value.
func TestValuesAreClosedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		c := keycache.New[string, *key](&mu, 3)
		put := func(id string, lives time.Duration) *key {
			mu.Lock()
			defer mu.Unlock()
			k := new(key)
			c.Put(id, k, time.Now().Add(lives))
			return k
		}
		has := func(id string) bool {
			mu.Lock()
			defer mu.Unlock()
			_, ok := c.Get(id)
			return ok
		}
		old := put("replaced", time.Hour)
		replaced, expired := put("replaced", time.Hour), put("expired", time.Minute)
		require.Equal(t, 1, old.closed)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 1, expired.closed, "though nobody asked for it")
		require.False(t, has("expired"))

		dropped, unused := put("dropped", time.Hour), put("unused", time.Hour)
		require.True(t, has("replaced"))
		require.True(t, has("dropped"))
		kept := put("kept", time.Hour)
		require.Equal(t, 1, unused.closed, "it was not used for longest")
		mu.Lock()
		c.DropFunc(func(id string) bool { return id == "dropped" })
		c.Drop("dropped")
		mu.Unlock()
		require.Equal(t, 1, dropped.closed)
		require.Equal(t, 1, put("late", 0).closed, "its time has passed")
		require.True(t, has("kept"))

		mu.Lock()
		c.Close()
		mu.Unlock()
		require.Equal(t, 1, put("closed", time.Hour).closed)
		time.Sleep(time.Hour)
		for _, k := range []*key{old, replaced, expired, dropped, unused, kept} {
			require.Equal(t, 1, k.closed)
		}
	})
}
