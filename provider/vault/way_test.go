package vault_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/vault"
)

// Whatever answers in place of the server, the error is ErrProviderUnavailable and names the
// address: at the login, when the key is checked, and when it is used. What breaks off is tried
// again.
func TestWhatAnswersInPlaceOfTheServer(t *testing.T) {
	honest := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/lookup-self"):
			_, _ = io.WriteString(w, `{"data":{"ttl":0,"renewable":false}}`)
		case strings.HasSuffix(r.URL.Path, "/keys/app"):
			_, _ = io.WriteString(w, `{"data":{"name":"app","type":"aes256-gcm96"}}`)
		default:
			key := strings.Repeat("A", 43) + "="
			_, _ = io.WriteString(w, `{"data":{"plaintext":"`+key+`","ciphertext":"vault:v1:AAAA"}}`)
		}
	}
	for name, lie := range adversary.Lies {
		for _, first := range []string{"first", "later"} {
			for operation, call := range map[string]func(provider.Provider) error{
				"datakey": func(p provider.Provider) error {
					_, err := p.GenerateDataKey(t.Context(), nil)
					return err
				},
				"encrypt": func(p provider.Provider) error {
					key, err := provider.NewSecureBytes(make([]byte, 32))
					require.NoError(t, err)
					defer key.Close()
					_, err = p.WrapDataKey(t.Context(), key, nil)
					return err
				},
				"decrypt": func(p provider.Provider) error {
					_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{Size: 32, EncryptedKey: header.EncryptedDataKey{
						ProviderID: "vault-transit", ProviderInfo: []byte("transit/app"), Ciphertext: []byte("vault:v1:AAAA"),
					}})
					return err
				},
				"keys": func(p provider.Provider) error { _, err := p.GetKeyInfo(t.Context(), ""); return err },
			} {
				t.Run(name+", "+first+", "+operation, func(t *testing.T) {
					t.Parallel()
					liar := adversary.NewLiar(t, http.HandlerFunc(honest))
					timeout := 10 * time.Second // for an answer that comes, on a machine that is busy
					if name == "silence" {
						timeout = time.Second
					}
					p := open(t, vault.Config{Address: liar.URL, Key: "app", Token: "t", MaxRetries: 1, Timeout: timeout, CheckLater: true})
					if first == "later" {
						require.NoError(t, call(p))
					}
					liar.Tell(lie)
					err := call(p)
					require.ErrorIs(t, err, provider.ErrProviderUnavailable)
					require.ErrorContains(t, err, liar.URL)
					require.NotErrorIs(t, err, context.DeadlineExceeded, "that is not the caller's")
					require.NotErrorIs(t, err, context.Canceled)
					require.NotContains(t, err.Error(), "\n")
					require.NotContains(t, err.Error(), "<html>")
					if first == "later" {
						tries := int64(2)
						switch name {
						case "nothing", "a page", "JSON of another service", "JSON of another type":
							tries = 1
						}
						require.Condition(t, func() bool { n := liar.Requests.Load(); return n == tries || tries > 1 && n > tries }, "%d requests; net/http sends some again by itself", liar.Requests.Load())
					}
					liar.Tell(nil)
					require.NoError(t, call(p))
				})
			}
		}
	}
}
