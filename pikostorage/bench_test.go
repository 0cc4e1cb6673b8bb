package pikostorage_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/service"
)

// BenchmarkSmall reads objects of 4 KiB that are in memory, with and without encryption.
func BenchmarkSmall(b *testing.B) {
	inner := newShelf(false)
	encrypted := encrypting(b, newShelf(false), pikokms.WithDataKeyCache(service.CacheLimits{}))
	for _, p := range []struct {
		name string
		storage.ProviderPort
	}{{"undecorated", inner}, {"decorated", encrypted}} {
		require.NoError(b, p.Put(b.Context(), upload("a", document(4096))))
		b.Run("get/"+p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := p.Get(b.Context(), at("default", "a"))
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, r)
				require.NoError(b, err)
				require.NoError(b, r.Close())
			}
		})
		b.Run("stat/"+p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := p.Stat(b.Context(), at("default", "a"))
				require.NoError(b, err)
			}
		})
	}
}
