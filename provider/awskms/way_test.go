package awskms_test

import (
	"context"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// Whatever answers in place of KMS, the error is ErrProviderUnavailable, which callers take for
// what may pass, and names the address. What breaks off is tried again, and a page is not.
func TestWhatAnswersInPlaceOfKMS(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	at, err := url.Parse(server.URL)
	require.NoError(t, err)
	honest := httputil.NewSingleHostReverseProxy(at)
	made, err := later(t, server, key.ARN).GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, made.Close()) })
	for name, lie := range adversary.Lies {
		for operation, call := range map[string]func(*testing.T, provider.Provider) error{
			"GenerateDataKey": func(t *testing.T, p provider.Provider) error {
				made, err := p.GenerateDataKey(t.Context(), nil)
				if err == nil {
					err = made.Close()
				}
				return err
			},
			"Encrypt": func(t *testing.T, p provider.Provider) error {
				_, err := p.WrapDataKey(t.Context(), made.PlaintextKey, nil)
				return err
			},
			"Decrypt": func(t *testing.T, p provider.Provider) error {
				opened, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
				if err == nil {
					err = opened.Close()
				}
				return err
			},
			"DescribeKey": func(t *testing.T, p provider.Provider) error {
				_, err := p.GetKeyInfo(t.Context(), "")
				return err
			},
		} {
			t.Run(name+", "+operation, func(t *testing.T) {
				t.Parallel()
				liar := adversary.NewLiar(t, honest)
				timeout := 10 * time.Second // for an answer that comes, on a machine that is busy
				if name == "silence" {
					timeout = time.Second
				}
				p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: newClient(t, liar.URL, 3), Timeout: timeout})
				require.NoError(t, err)
				liar.Tell(lie)
				err = call(t, p)
				require.ErrorIs(t, err, provider.ErrProviderUnavailable)
				require.ErrorContains(t, err, strings.TrimPrefix(liar.URL, "http://"))
				require.NotErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, context.Canceled)
				requireOneSentinel(t, err)
				require.NotContains(t, err.Error(), "\n")
				require.NotContains(t, err.Error(), "<html>")
				tries := int64(3)
				switch name {
				case "nothing", "a page", "JSON of another service", "JSON of another type":
					tries = 1
				}
				require.Equal(t, tries, liar.Requests.Load())
				liar.Tell(nil)
				require.NoError(t, call(t, p))
			})
		}
	}
}
