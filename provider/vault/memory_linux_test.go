package vault_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/leftover"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/vault"
)

// memoryVault is in the environment of the process whose memory is read, which is the test again:
// the URL of the server, a token, the path of a transit engine and a key's name.
const memoryVault = "PIKOKMS_MEMORY_VAULT"

// use encrypts and decrypts, and reports the data keys.
func use(t *testing.T) {
	named := strings.Fields(os.Getenv(memoryVault))
	p, err := vault.NewProvider(t.Context(), vault.Config{Address: named[0], Token: named[1], Mount: named[2], Key: named[3]})
	require.NoError(t, err)
	keys := &leftover.Masking{EncryptionProvider: p}
	both := message.Encrypter{Keyring: keys, Recipients: []provider.Wrapper{keys}}
	for range 20 {
		_, err := both.Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
	}
	leftover.Use(t, keys, p)
}

// TestNoKeyStaysInMemory reads the whole memory of a process that has encrypted and decrypted, in
// search of data keys. Only the buffers of net/http and encoding/json have any, as base64 text: the
// last answers of the server, and the last requests to it.
func TestNoKeyStaysInMemory(t *testing.T) {
	if os.Getenv(memoryVault) != "" {
		use(t)
		return
	}
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	c := newOpenBao(t).createKey("memory", nil)
	process := leftover.Start(t, "TestNoKeyStaysInMemory", memoryVault+"="+strings.Join([]string{longAnswers(t, c.Address), c.Token, c.Mount, c.Key}, " "))
	process.RequireTextOnly(t, func(key []byte) string { return base64.StdEncoding.EncodeToString(key)[:40] })
}

// longAnswers is the URL of a proxy that adds 4 KiB to each answer. Whoever reads that needs more
// than a first small buffer.
func longAnswers(t *testing.T, address string) string {
	t.Helper()
	server, err := url.Parse(address)
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(server) },
		ModifyResponse: func(r *http.Response) error {
			text, err := io.ReadAll(r.Body)
			text = append(text, strings.Repeat(" ", 4<<10)...)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
			r.Header.Set("Content-Length", strconv.Itoa(len(text)))
			return err
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
