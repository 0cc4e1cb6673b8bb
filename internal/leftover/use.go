package leftover

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Use encrypts and decrypts under the keys of a provider, and tells its data keys twice: when one is
// held, and when the provider is closed.
func Use(t testing.TB, keys *Masking, p io.Closer) {
	t.Helper()
	e, d := message.Encrypter{Keyring: keys}, message.Decrypter{Keyrings: []provider.Unwrapper{keys}}
	for range 20 {
		sealed, err := e.Encrypt(t.Context(), []byte("text"), map[string]string{"tenant": "42"})
		require.NoError(t, err)
		_, _, err = d.Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
	}
	require.NoError(t, provider.Check(t.Context(), keys))
	held, err := keys.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	Tell(t, keys.Masked())
	require.NoError(t, held.Close())
	require.NoError(t, p.Close())
	Tell(t, keys.Masked())
}
