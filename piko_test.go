package pikokms_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// A storage states pairs of its own about an object.
func TestEncryptObjectWithPairs(t *testing.T) {
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	for _, bound := range [][]pikokms.Option{nil, {pikokms.BindObjectName("app")}} {
		host, err := pikokms.New(append(bound, pikokms.WithStorage(folder),
			pikokms.WithCryptoProvider("local", newLocal(t, "local", 1)), pikokms.WithDefaultCryptoProvider("local"))...)
		require.NoError(t, err)
		require.False(t, host.AllowsPlaintext())
		stated := map[string]string{"kind": "invoice"}
		r, err := host.EncryptObject(t.Context(), "a", strings.NewReader("content"), stated)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"kind": "invoice"}, stated)
		stored, err := io.ReadAll(r)
		require.NoError(t, err)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Equal(t, "invoice", h.EncryptionContext["kind"])
		content, _, err := host.DecryptObject(t.Context(), "a", bytes.NewReader(stored), int64(len(stored)), nil)
		require.NoError(t, err)
		text, err := io.ReadAll(content)
		require.NoError(t, err)
		require.Equal(t, "content", string(text))

		forged := bytes.Replace(stored, []byte("invoice"), []byte("receipt"), 1)
		_, _, err = host.DecryptObject(t.Context(), "a", bytes.NewReader(forged), int64(len(forged)), nil)
		require.Error(t, err, "the pair is authenticated")

		reserved := []string{pikokms.PairTransformers, provider.PairUse}
		if bound != nil {
			reserved = append(reserved, pikokms.PairBucket, pikokms.PairObject)
		}
		for _, name := range reserved {
			_, err := host.EncryptObject(t.Context(), "a", strings.NewReader("content"), map[string]string{name: "x"})
			require.ErrorIs(t, err, pikokms.ErrInvalidOptions, name)
		}
	}
}
