package awskms_test

import (
	"encoding/base64"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/providertest"
)

// TestMain takes what the machine is configured with out of the way.
func TestMain(m *testing.M) {
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} {
		os.Unsetenv(name)
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	goleak.VerifyTestMain(m)
}

// newClient returns a client of a server, whose attempts follow one another at once.
func newClient(t testing.TB, url string, attempts int, options ...func(*kms.Options)) *kms.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return kms.New(kms.Options{
		Region: kmstest.Region, BaseEndpoint: aws.String(url), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
		}),
	}, options...)
}

// as makes a client one of another account and Region.
func as(account, region string) func(*kms.Options) {
	return func(o *kms.Options) {
		o.Region, o.Credentials = region, credentials.NewStaticCredentialsProvider(account, "test", "")
	}
}

// ability is what the result of NewProvider can do.
type ability interface {
	provider.KeySelector
	provider.ReEncrypter
	provider.PikoV2Keyring
	provider.S3ECKeyring
}

// later makes a provider that asks KMS nothing yet.
func later(t testing.TB, server *kmstest.Server, keyID string, changes ...func(*awskms.Config)) ability {
	t.Helper()
	c := awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1), CheckLater: true}
	for _, change := range changes {
		change(&c)
	}
	p, err := awskms.NewProvider(t.Context(), c)
	require.NoError(t, err)
	return p.(ability)
}

func TestConformance(t *testing.T) {
	for _, spec := range []string{"SYMMETRIC_DEFAULT", "RSA_2048"} {
		t.Run(spec, func(t *testing.T) {
			server := kmstest.NewServer(t)
			first, second := server.CreateKey(kmstest.Key{Spec: spec}), server.CreateKey(kmstest.Key{Spec: spec})
			open := func(key kmstest.Key) func(t *testing.T) provider.EncryptionProvider {
				return func(t *testing.T) provider.EncryptionProvider {
					p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ID, Client: newClient(t, server.URL, 1)})
					require.NoError(t, err)
					require.Equal(t, key.ARN, p.KeyID())
					return p
				}
			}
			providertest.Run(t, open(first), open(second))
		})
	}
}

// A key's own words reach GetKeyInfo, and keys that are not the provider's can be described, too.
func TestKeyInfo(t *testing.T) {
	server := kmstest.NewServer(t)
	own := server.CreateKey(kmstest.Key{Description: "of the store"})
	other := server.CreateKey(kmstest.Key{Spec: "RSA_3072", State: "PendingDeletion"})
	p := later(t, server, own.ID)
	info, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, own.ID, info.KeyID)
	require.Equal(t, "of the store", info.Description)
	require.Equal(t, own.ARN, info.Metadata["arn"])
	require.Equal(t, kmstest.Account, info.Metadata["account_id"])
	info, err = p.GetKeyInfo(t.Context(), other.ARN)
	require.NoError(t, err)
	require.Equal(t, "RSA_3072", info.Algorithm)
	require.ErrorIs(t, info.Err, provider.ErrKeyPendingDeletion)
	_, err = p.GetKeyInfo(t.Context(), "alias/nobody")
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.ErrorContains(t, err, "alias/nobody")
}

func TestReEncrypt(t *testing.T) {
	server := kmstest.NewServer(t)
	one, two := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	rsa, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: server.CreateKey(kmstest.Key{Spec: "RSA_2048"}).ARN, Client: newClient(t, server.URL, 1)})
	require.NoError(t, err)
	far, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "alias/far", Client: newClient(t, server.URL, 1, as(kmstest.Account, "us-east-1")), CheckLater: true})
	require.NoError(t, err)
	from, to := later(t, server, one.ARN), later(t, server, two.ARN)
	pairs := map[string]string{"table": "customers"}
	value, err := envelope.Seal(t.Context(), from, "secret", pairs)
	require.NoError(t, err)
	blob, err := base64.StdEncoding.DecodeString(value.Ciphertext)
	require.NoError(t, err)
	server.Reset()
	moved, keyARN, err := to.ReEncrypt(t.Context(), from, blob, pairs)
	require.NoError(t, err)
	require.Equal(t, 1, server.Calls("ReEncrypt"))
	require.Zero(t, server.Calls("Decrypt"))
	require.Equal(t, two.ARN, keyARN)
	got, err := to.DecryptDirectly(t.Context(), moved, pairs)
	require.NoError(t, err)
	require.Equal(t, "secret", string(got))

	for name, c := range map[string]struct {
		to    provider.ReEncrypter
		from  provider.Provider
		blob  []byte
		pairs map[string]string
		want  error
	}{
		"another context": {to, from, blob, nil, provider.ErrDecryptionFailed},
		"another source":  {to, to, blob, pairs, provider.ErrDecryptionFailed},
		"an RSA key":      {rsa.(ability), from, blob, pairs, provider.ErrInvalidProvider},
		"of an RSA key":   {to, rsa, blob, pairs, provider.ErrInvalidProvider},
		"another Region":  {to, far, blob, pairs, provider.ErrInvalidProvider},
	} {
		_, _, err := c.to.ReEncrypt(t.Context(), c.from, c.blob, c.pairs)
		require.ErrorIs(t, err, c.want, name)
	}
	for name, lie := range map[string]map[string]any{
		"source": {"SourceKeyId": two.ARN}, "destination": {"KeyId": one.ARN}, "empty": {"CiphertextBlob": []byte{}},
	} {
		remove := server.Inject(kmstest.Fault{Operation: "ReEncrypt", Do: answer(lie)})
		_, _, err := to.ReEncrypt(t.Context(), from, blob, pairs)
		require.ErrorIs(t, err, provider.ErrEncryptionFailed, name)
		remove()
	}
}
