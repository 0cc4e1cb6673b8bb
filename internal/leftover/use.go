package leftover

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Use encrypts and decrypts under the keys of a provider. It sends the data keys to the observer
// twice: while one of them is in use, and after the provider is closed.
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

// RequireTextOnly searches a process that calls Use. A data key in use must not be in a core dump.
// After the provider is closed, data keys may be left only as text, in the buffers of net/http and
// encoding/json for the last requests and answers. text returns a data key in that form.
func (p *Process) RequireTextOnly(t testing.TB, text func(key []byte) string) {
	t.Helper()
	search := func(phase string) (Found, map[string]Count) {
		var masked [][]byte
		p.Next(t, &masked)
		secrets := make(Secrets)
		for i, m := range masked {
			key := Mask(m)
			secrets[fmt.Sprint("data key ", i)] = key
			secrets[fmt.Sprint("data key as text ", i)] = []byte(text(key))
		}
		found := p.Search(t, secrets)
		return found, found.Counts(t, phase)
	}
	found, counts := search("open")
	require.Equal(t, 1, counts["data key"].Alone, "the search finds what is there")
	for name, places := range found {
		if !strings.HasPrefix(name, "data key as text") {
			require.False(t, places[0].InCoreDump())
		}
	}
	p.GoOn(t)
	_, counts = search("closed")
	require.Zero(t, counts["data key"].Alone)
	require.Less(t, counts["data key as text"].Alone, 10)
}
