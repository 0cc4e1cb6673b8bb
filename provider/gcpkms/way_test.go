package gcpkms_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
)

// Whatever answers in place of Cloud KMS, the error is ErrProviderUnavailable and names the
// address.
func TestWhatAnswersInPlaceOfCloudKMS(t *testing.T) {
	race.SkipShort(t)
	server := gcpkmstest.NewServer(t)
	c := config(server, server.CreateKey(gcpkmstest.Key{}))
	liar := adversary.NewLiar(t, server)
	c.Endpoint, c.MaxRetries, c.Timeout = liar.URL, 1, time.Second
	p := open(t, c)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	for name, lie := range adversary.Lies {
		for operation, call := range map[string]func() error{
			"Encrypt": func() error { _, err := p.WrapDataKey(t.Context(), made.PlaintextKey, nil); return err },
			"Decrypt": func() error {
				_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
				return err
			},
			"GetCryptoKey": func() error { _, err := p.GetKeyInfo(t.Context(), ""); return err },
		} {
			t.Run(name+", "+operation, func(t *testing.T) {
				liar.Tell(lie)
				defer liar.Tell(nil)
				err := call()
				require.ErrorIs(t, err, provider.ErrProviderUnavailable)
				require.ErrorContains(t, err, strings.TrimPrefix(liar.URL, "http://"))
				require.NotErrorIs(t, err, context.DeadlineExceeded, "that is not the caller's")
				require.NotErrorIs(t, err, context.Canceled)
				require.EqualValues(t, 2, liar.Requests.Load())
				liar.Tell(nil)
				require.Eventually(t, func() bool { return call() == nil }, time.Minute, 10*time.Millisecond)
			})
		}
	}
}

// A key of another purpose is said to be one, also by a provider that does not check it first.
func TestAKeyOfAnotherPurposeIsNotDisabled(t *testing.T) {
	server := gcpkmstest.NewServer(t)
	for _, purpose := range []kmspb.CryptoKey_CryptoKeyPurpose{
		kmspb.CryptoKey_ASYMMETRIC_DECRYPT, kmspb.CryptoKey_ASYMMETRIC_SIGN, kmspb.CryptoKey_MAC, kmspb.CryptoKey_RAW_ENCRYPT_DECRYPT,
	} {
		name := server.CreateKey(gcpkmstest.Key{Purpose: purpose})
		c := config(server, name)
		_, err := gcpkms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrKeyUsage)
		c.CheckLater = true
		p := open(t, c)
		_, err = p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrKeyUsage, purpose)
		require.NotErrorIs(t, err, provider.ErrKeyDisabled)
		_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{Size: 32, EncryptedKey: header.EncryptedDataKey{
			ProviderID: "gcp-kms", ProviderInfo: []byte(name), Ciphertext: []byte("some"),
		}})
		require.ErrorIs(t, err, provider.ErrKeyUsage, purpose)
		require.NotErrorIs(t, err, provider.ErrKeyDisabled)
	}
}
