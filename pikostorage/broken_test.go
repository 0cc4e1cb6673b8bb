package pikostorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/service"
)

func encryptWith(t testing.TB, inner storage.ProviderPort, k keys, options ...pikokms.Option) storage.ProviderPort {
	t.Helper()
	return pikostorage.Encrypt(inner, k, options...)
}

// requireUnreadable tries every way that gives bytes of an object, and wants an error of each.
func requireUnreadable(t *testing.T, p storage.ProviderPort, repository, key string) {
	t.Helper()
	_, err := read(t, p, at(repository, key))
	require.Error(t, err, "whole")
	for _, r := range []storage.ByteRange{{Start: 0, End: -1}} {
		params := at(repository, key)
		params.ByteRange = &r
		_, err = read(t, p, params)
		require.Error(t, err, "range %+v", r)
	}
	_, err = p.GetHash(t.Context(), at(repository, key))
	require.Error(t, err, "hash")
	away := newShelf(false)
	require.Error(t, migrate(t.Context(), p, away, key), "migration")
	require.Empty(t, away.objects)
}

// TestDamagedObjects changes, cuts and prolongs a stored object. Each way out gives an error.
func TestDamagedObjects(t *testing.T) {
	race.SkipShort(t)
	for _, set := range settings {
		for _, size := range []int{0, 1, 65_536, 200_000} {
			t.Run(fmt.Sprintf("%s/%d", set.name, size), func(t *testing.T) {
				inner := newShelf(true)
				p := encrypting(t, inner, append([]pikokms.Option{pikokms.AllowPlaintext()}, set.options...)...)
				content := document(size)
				r := rand.New(rand.NewPCG(1, uint64(size)))
				whole := func() []byte {
					require.NoError(t, p.Put(t.Context(), upload("a", content)))
					return inner.objects[place("default", "a")].content
				}
				n := len(whole())
				for i := range 60 {
					whole()
					what := "damaged"
					switch at := 4 + r.IntN(n-4); i % 3 { // the first 4 bytes say that it is a message
					case 0:
						inner.change("default", "a", func(b []byte) []byte { b[at] ^= 1 << (i % 8); return b })
					case 1:
						what = "cut"
						inner.change("default", "a", func(b []byte) []byte { return b[:at] })
					case 2:
						what = "prolonged"
						inner.change("default", "a", func(b []byte) []byte { return append(b, b[at:]...) })
					}
					t.Log(what)
					requireUnreadable(t, p, "default", "a")
				}
			})
		}
	}
}

// TestPlantedPlaintext puts an object into the storage that nobody encrypted.
func TestPlantedPlaintext(t *testing.T) {
	inner := newShelf(false)
	p := encrypting(t, inner)
	for _, metadata := range []map[string]string{nil, {"x-piko-transformers": `["gzip"]`}, {"x-piko-transformers": "[]"}} {
		params := upload("a", document(1000))
		params.Metadata = metadata
		require.NoError(t, inner.Put(t.Context(), params))
		requireUnreadable(t, p, "default", "a")
		_, err := p.Get(t.Context(), at("default", "a"))
		require.ErrorIs(t, err, pikokms.ErrPlaintext)
		_, err = p.Stat(t.Context(), at("default", "a"))
		require.ErrorIs(t, err, pikokms.ErrPlaintext)
	}
}

// TestReplacedDuringARange replaces an object by one of the same size between two requests of a
// range.
func TestReplacedDuringARange(t *testing.T) {
	inner := newShelf(false)
	p := encrypting(t, inner)
	require.NoError(t, p.Put(t.Context(), upload("a", document(300_000))))
	params := at("default", "a")
	params.ByteRange = &storage.ByteRange{Start: 100_000, End: 250_000}
	r, err := p.Get(t.Context(), params)
	require.NoError(t, err)
	require.NoError(t, p.Put(t.Context(), upload("a", bytes.Repeat([]byte("x"), 300_000))))
	_, err = io.ReadAll(r)
	require.Error(t, err)
	require.NoError(t, r.Close())
}

// TestKeyServiceDown has the key service fail when an application starts, at an upload and at a
// download. Nothing is stored, and what was stored stays.
func TestKeyServiceDown(t *testing.T) {
	_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "alias/app-data", Region: "eu-west-1", Endpoint: "http://127.0.0.1:1", MaxRetries: -1})
	require.Error(t, err, "at the start")

	inner := newShelf(false)
	k, behind := newKeys(t)
	p := encryptWith(t, inner, k)
	content := document(100_000)
	require.NoError(t, p.Put(t.Context(), upload("a", content)))
	behind.down.Store(true)
	for _, w := range ways {
		if strings.HasPrefix(w.name, "copy") || w.name == "asset registry" || w.name == "content-addressed" {
			continue
		}
		err := w.store(t.Context(), p, "a", document(1000))
		require.Error(t, err, w.name)
		require.Contains(t, err.Error(), "unavailable", w.name)
	}
	require.Len(t, inner.objects, 1)
	_, err = p.Get(t.Context(), at("default", "a"))
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	_, err = p.Stat(t.Context(), at("default", "a"))
	require.ErrorIs(t, err, service.ErrBreakerOpen, "Piko sends an error before it has sent a size")

	again := encryptWith(t, inner, k)
	info, err := again.Stat(t.Context(), at("default", "a"))
	require.NoError(t, err, "a size needs no key")
	require.EqualValues(t, len(content), info.Size)
}

// TestFailedUploads have the reader or the storage fail half-way. Nothing is stored.
func TestFailedUploads(t *testing.T) {
	for _, native := range []bool{false, true} {
		inner := newShelf(native)
		p := encrypting(t, inner)
		params := upload("a", nil)
		hangup := errors.New("the client hung up")
		params.Reader = io.MultiReader(bytes.NewReader(document(300_000)), failingReader{hangup})
		require.ErrorIs(t, p.Put(t.Context(), params), hangup)
		require.Empty(t, inner.objects)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, p.Put(ctx, upload("a", document(300_000))), context.Canceled)
		require.Empty(t, inner.objects)

		require.ErrorContains(t, p.Put(t.Context(), &storage.PutParams{Repository: "default", Key: "a"}), "no reader")
	}
}

// again puts as Piko's retries do: with the same parameters, as long as the failure may be
// temporary.
func again(ctx context.Context, p storage.ProviderPort, params *storage.PutParams) (tries int, err error) {
	for tries = 1; tries <= 4; tries++ {
		if err = p.Put(ctx, params); !storage.IsRetryableError(err) {
			return tries, err
		}
	}
	return tries, err
}

// TestRetriesLoseNothing resets the connection of an upload once, half-way.
func TestRetriesLoseNothing(t *testing.T) {
	content := document(300_001)
	reset := func(inner *shelf) {
		inner.failing = func(got []byte) error {
			inner.mu.Lock()
			defer inner.mu.Unlock()
			inner.failing = nil
			return fmt.Errorf("after %d bytes: %w", len(got), syscall.ECONNRESET)
		}
	}
	t.Run("a reader that can be rewound", func(t *testing.T) {
		inner := newShelf(false)
		p := encrypting(t, inner)
		reset(inner)
		params := upload("a", content)
		_, err := params.Reader.(io.Seeker).Seek(1, io.SeekStart) // where the application has left it
		require.NoError(t, err)
		tries, err := again(t.Context(), p, params)
		require.NoError(t, err)
		require.Equal(t, 2, tries)
		got, err := read(t, p, at("default", "a"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[1:], got), "%d bytes of %d", len(got), len(content)-1)
	})
	t.Run("a reader that can't be rewound", func(t *testing.T) {
		inner := newShelf(false)
		p := encrypting(t, inner)
		reset(inner)
		params := upload("a", content)
		params.Reader = struct{ io.Reader }{params.Reader}
		tries, err := again(t.Context(), p, params)
		require.Equal(t, 1, tries)
		require.ErrorIs(t, err, pikostorage.ErrSourceSpent)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Empty(t, inner.objects)
	})
	t.Run("a key service that is down for a moment", func(t *testing.T) {
		inner := newShelf(false)
		k, behind := newKeys(t)
		p := encryptWith(t, inner, k)
		params := upload("a", content)
		params.Reader = struct{ io.Reader }{params.Reader}
		behind.down.Store(true)
		err := p.Put(t.Context(), params)
		require.True(t, storage.IsRetryableError(err), "nothing has been read: %v", err)
		behind.down.Store(false)
		require.NoError(t, p.Put(t.Context(), params))
		got, err := read(t, p, at("default", "a"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	})
	t.Run("a batch", func(t *testing.T) {
		inner := newShelf(true)
		p := encrypting(t, inner)
		reset(inner)
		r := bytes.NewReader(content)
		params := &storage.PutManyParams{Repository: "default", Objects: []storage.PutObjectSpec{{Key: "a", Reader: r, ContentType: "text/plain"}}}
		result, err := p.PutMany(t.Context(), params)
		require.NoError(t, err)
		require.True(t, result.FailedKeys[0].Retryable)
		result, err = p.PutMany(t.Context(), params)
		require.NoError(t, err)
		require.Equal(t, 1, result.TotalSuccessful)
		got, err := read(t, p, at("default", "a"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	})
}
