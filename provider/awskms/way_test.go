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
	liar := adversary.NewLiar(t, httputil.NewSingleHostReverseProxy(at))
	client := newClient(t, liar.URL, 3)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client, Timeout: 300 * time.Millisecond})
	require.NoError(t, err)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	for name, lie := range adversary.Lies {
		for operation, call := range map[string]func() error{
			"GenerateDataKey": func() error {
				_, err := p.GenerateDataKey(t.Context(), nil)
				return err
			},
			"Encrypt": func() error { _, err := p.WrapDataKey(t.Context(), made.PlaintextKey, nil); return err },
			"Decrypt": func() error {
				_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
				return err
			},
			"DescribeKey": func() error { _, err := p.GetKeyInfo(t.Context(), ""); return err },
		} {
			t.Run(name+", "+operation, func(t *testing.T) {
				liar.Tell(lie)
				defer liar.Tell(nil)
				err := call()
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
				require.NoError(t, call())
			})
		}
	}
}
