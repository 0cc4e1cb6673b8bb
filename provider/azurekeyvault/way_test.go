package azurekeyvault_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
)

// Whatever answers in place of the vault, the error is ErrProviderUnavailable and names the
// address. What breaks off is tried again.
func TestWhatAnswersInPlaceOfTheVault(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	c := config(server, server.CreateKey(azurekeyvaulttest.Key{Type: "oct-HSM"}))
	liar := adversary.NewLiar(t, server)
	c.Endpoint, c.MaxRetries, c.Timeout = liar.URL, 1, time.Second
	c.CheckLater = true
	p := open(t, c)
	var made *provider.DataKey
	require.Eventually(t, func() (ok bool) {
		var err error
		made, err = p.GenerateDataKey(t.Context(), nil)
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	defer made.Close()
	for name, lie := range adversary.Lies {
		for operation, call := range map[string]func() error{
			"WrapKey": func() error { _, err := p.WrapDataKey(t.Context(), made.PlaintextKey, nil); return err },
			"UnwrapKey": func() error {
				_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
				return err
			},
			"GetKey": func() error { _, err := p.GetKeyInfo(t.Context(), ""); return err },
		} {
			t.Run(name+", "+operation, func(t *testing.T) {
				liar.Tell(lie)
				defer liar.Tell(nil)
				err := call()
				require.ErrorIs(t, err, provider.ErrProviderUnavailable)
				require.ErrorContains(t, err, liar.URL)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "that is not the caller's")
				require.NotErrorIs(t, err, context.Canceled)
				require.NotContains(t, err.Error(), "\n")
				require.NotContains(t, err.Error(), "<html>")
				tries := int64(2)
				switch name {
				case "nothing", "a page", "JSON of another service", "JSON of another type":
					tries = 1
				}
				require.GreaterOrEqual(t, liar.Requests.Load(), tries, "net/http sends some again by itself")
				liar.Tell(nil)
				require.Eventually(t, func() bool { return call() == nil }, time.Minute, 10*time.Millisecond)
			})
		}
	}
}
