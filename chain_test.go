package pikokms_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Anyone with the key can write an object that names transformers without end. They can also write
// one of 1 MB that a reader would decompress 2,000 times side by side.
func TestAnObjectThatNamesTooManyTransformersIsRefused(t *testing.T) {
	everyProvider(t, func(t *testing.T, p provider.EncryptionProvider) {
		f := hostUnder(t, p)
		e := message.Encrypter{Keyring: p}
		for name, chain := range map[string]string{
			"s2 2,000 times":         strings.TrimSuffix(strings.Repeat("s2,", 2000), ","),
			"the same twice":         "s2,s2",
			"two compressions":       "s2,gzip",
			"names without end":      strings.TrimSuffix(strings.Repeat("x,", 20_000), ","),
			"nine":                   "a,b,c,d,e,f,g,h,i",
			"commas alone":           ",,",
			"encryption":             "crypto-service",
			"a name of 60,000 bytes": strings.Repeat("s", 60_000),
		} {
			sealed, err := e.Encrypt(t.Context(), make([]byte, 1<<20), map[string]string{provider.PairUse: provider.UseObject, pikokms.PairTransformers: chain})
			if len(chain) > 8192 && p.Type() == "aws_kms" && err != nil {
				continue // AWS KMS takes less
			}
			require.NoError(t, err)
			require.NoError(t, f.folder.Put(t.Context(), "object", bytes.NewReader(sealed)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, getErr := f.Get(t.Context(), "object")
			_, openErr := f.Open(t.Context(), "object")
			_, _, decryptErr := f.DecryptObject(t.Context(), "object", bytes.NewReader(sealed), int64(len(sealed)), nil)
			runtime.ReadMemStats(&after)
			for _, err := range []error{getErr, openErr, decryptErr} {
				require.Error(t, err, name)
				require.Less(t, len(err.Error()), 1000, name)
			}
			taken := after.TotalAlloc - before.TotalAlloc
			require.Less(t, taken, uint64(8<<20), name)
			t.Logf("%s: %d KiB allocated by three readings", name, taken>>10)
			if name != "a name of 60,000 bytes" && name != "two compressions" && name != "encryption" { // one name more or less is for readers to know
				require.ErrorIs(t, f.Rewrap(t.Context(), "object"), pikokms.ErrInvalidTransformer, name)
				require.Equal(t, sealed, f.stored(t, "object"))
			}
		}
	})
}

// What is written is what is read: the same rule decides both.
func TestAChainIsBounded(t *testing.T) {
	var nine []pikokms.Option
	var names []string
	for i := range 9 {
		name := fmt.Sprintf("custom-%d", i)
		names = append(names, name)
		nine = append(nine, pikokms.WithTransformer(renamed{name, i}))
	}
	f := newFixture(t, append(nine, pikokms.WithEnabledTransformers(names[:7]...), pikokms.WithEnabledTransformers("zstd"))...)
	require.Len(t, f.Transformers(), 9)
	require.NoError(t, f.Put(t.Context(), "a", strings.NewReader("content")))
	got, err := get(t, f, "a")
	require.NoError(t, err)
	require.Equal(t, "content", got)

	folder := pikokms.WithStorage(f.folder)
	key := newLocal(t, "local", 1)
	for _, enabled := range [][]string{names, {"zstd", "gzip"}, {"s2", "s2"}} {
		_, err := pikokms.New(append(nine, folder, pikokms.WithCryptoProvider("p", key), pikokms.WithDefaultCryptoProvider("p"), pikokms.WithEnabledTransformers(enabled...))...)
		require.ErrorIs(t, err, pikokms.ErrInvalidTransformer)
	}
}

// Messages of others may have more recipients and pairs than pikokms writes.
func TestHeaderLimitsOfAHost(t *testing.T) {
	key := newLocal(t, "local", 1)
	pairs := map[string]string{provider.PairUse: provider.UseObject}
	for i := range 1500 {
		pairs[fmt.Sprintf("k%d", i)] = ""
	}
	dataKey, err := provider.NewSecureBytes(bytes.Repeat([]byte{9}, 32))
	require.NoError(t, err)
	defer dataKey.Close()
	wrapped, err := key.WrapDataKey(t.Context(), dataKey, pairs)
	require.NoError(t, err)
	sealed := forge(t, bytes.Repeat([]byte{9}, 32), wrapped, pairs, "many pairs")

	narrow := newFixture(t)
	require.NoError(t, narrow.folder.Put(t.Context(), "a", bytes.NewReader(sealed)))
	_, getErr := get(t, narrow, "a")
	_, openErr := narrow.Open(t.Context(), "a")
	_, sizeErr := narrow.StatedSize(bytes.NewReader(sealed), int64(len(sealed)))
	for _, err := range []error{getErr, openErr, sizeErr, narrow.Rewrap(t.Context(), "a"), narrow.Migrate(t.Context(), "a")} {
		require.ErrorIs(t, err, header.ErrLimit)
		require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
		require.ErrorContains(t, err, "WithHeaderLimits")
	}

	wide := newFixture(t, pikokms.WithHeaderLimits(header.Limits{MaxPairs: 2000}))
	require.NoError(t, wide.folder.Put(t.Context(), "a", bytes.NewReader(sealed)))
	got, err := get(t, wide, "a")
	require.NoError(t, err)
	require.Equal(t, "many pairs", got)
	object, err := wide.Open(t.Context(), "a")
	require.NoError(t, err)
	b, err := io.ReadAll(object)
	require.NoError(t, err)
	require.Equal(t, "many pairs", string(b))
	require.NoError(t, object.Close())
}
