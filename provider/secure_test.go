package provider_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/provider"
)

func TestSecureBytesMovesTheKey(t *testing.T) {
	key := bytes.Repeat([]byte{0xA5}, 32)
	s, err := provider.NewSecureBytes(key)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 32), key, "the source is zeroed")
	require.Equal(t, 32, s.Len())

	var inside []byte
	require.NoError(t, s.WithAccess(func(k []byte) error { inside = bytes.Clone(k); return nil }))
	require.Equal(t, bytes.Repeat([]byte{0xA5}, 32), inside)
	failure := errors.New("mine")
	require.ErrorIs(t, s.WithAccess(func([]byte) error { return failure }), failure)

	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.WithAccess(func([]byte) error { t.Fatal("called after Close"); return nil }), provider.ErrClosed)

	_, err = provider.NewSecureBytes(nil)
	require.ErrorIs(t, err, provider.ErrInvalidKey)
}

func TestSharedSecureBytes(t *testing.T) {
	first, err := provider.NewSecureBytes(bytes.Repeat([]byte{0xA5}, 32))
	require.NoError(t, err)
	var memory []byte
	look := func(k []byte) error { memory = k; return nil }
	second, err := first.Share()
	require.NoError(t, err)
	third, err := second.Share()
	require.NoError(t, err)
	require.NoError(t, first.WithAccess(look))
	kept := memory
	require.NoError(t, third.WithAccess(look))
	require.Same(t, &kept[0], &memory[0])

	require.NoError(t, first.Close())
	require.NoError(t, first.Close(), "closing twice gives up one share")
	_, err = first.Share()
	require.ErrorIs(t, err, provider.ErrClosed)
	require.NoError(t, second.Close())
	require.NoError(t, third.WithAccess(func(k []byte) error {
		require.Equal(t, bytes.Repeat([]byte{0xA5}, 32), k)
		return nil
	}))
	require.NoError(t, third.Close())
	require.ErrorIs(t, third.WithAccess(look), provider.ErrClosed)
}

// TestKeysBesideOneAnother has more keys than fit a page, of all sizes, closes some and makes
// others in their places.
func TestKeysBesideOneAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := make(map[*provider.SecureBytes][]byte)
		defer func() {
			for s := range keys {
				require.NoError(t, s.Close())
			}
		}()
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "close") == 0 {
				for s, want := range keys { // one of them
					require.NoError(t, s.WithAccess(func(k []byte) error {
						require.Equal(t, want, k)
						require.Equal(t, len(k), cap(k), "no way to the next key")
						return nil
					}))
					require.NoError(t, s.Close())
					delete(keys, s)
					break
				}
				continue
			}
			key := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "key")
			s, err := provider.NewSecureBytes(bytes.Clone(key))
			require.NoError(t, err)
			require.Equal(t, len(key), s.Len())
			keys[s] = key
		}
		for s, want := range keys {
			require.NoError(t, s.WithAccess(func(k []byte) error {
				require.Equal(t, want, k)
				return nil
			}))
		}
	})
}

func TestClosedKeysAreZeroed(t *testing.T) {
	s, err := provider.NewSecureBytes(bytes.Repeat([]byte{0xA5}, 32))
	require.NoError(t, err)
	var memory []byte
	require.NoError(t, s.WithAccess(func(k []byte) error { memory = k; return nil }))
	require.NoError(t, s.Close())
	require.Equal(t, make([]byte, 32), memory)
}

func BenchmarkSecureBytes(b *testing.B) {
	key := make([]byte, 32)
	for b.Loop() {
		s, err := provider.NewSecureBytes(key)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSecureBytesShowsNothing(t *testing.T) {
	s, err := provider.NewSecureBytes([]byte("SENTINELSENTINELSENTINELSENTINEL"))
	require.NoError(t, err)
	defer s.Close()
	holder := struct{ Key *provider.SecureBytes }{s}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", holder)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", s, "holder", holder)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", s, "holder", holder)
	require.NoError(t, json.NewEncoder(&out).Encode(holder))
	require.NotContains(t, out.String(), "SENTINEL")
	require.NotContains(t, out.String(), "53454e54")
	require.NotContains(t, out.String(), "83 69 78")
	require.Contains(t, out.String(), "[redacted]")
}

func TestSecureBytesConcurrently(t *testing.T) {
	s, err := provider.NewSecureBytes(bytes.Repeat([]byte{7}, 32))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := s.WithAccess(func(k []byte) error {
				if k[0] != 7 || k[31] != 7 {
					return errors.New("zeroed while in use")
				}
				return nil
			})
			if err != nil && !errors.Is(err, provider.ErrClosed) {
				t.Error(err)
			}
		})
	}
	wg.Go(func() { _ = s.Close() })
	wg.Wait()
}

func TestEncryptionError(t *testing.T) {
	err := error(&provider.EncryptionError{Operation: "Decrypt", Provider: "aws_kms", KeyID: "k", Err: provider.ErrKeyDisabled})
	require.ErrorIs(t, err, provider.ErrKeyDisabled)
	require.EqualError(t, err, "crypto Decrypt failed with provider aws_kms and key k: encryption key disabled")
	err = &provider.EncryptionError{Operation: "Decrypt", Provider: "aws_kms", Err: provider.ErrKeyDisabled}
	require.EqualError(t, err, "crypto Decrypt failed with provider aws_kms: encryption key disabled")
}
