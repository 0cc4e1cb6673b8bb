package pikokms_test

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

const region = "eu-west-1"

// endpoint returns LocalStack's URL, or skips the test where there is none.
func endpoint(t *testing.T) string {
	t.Helper()
	return emulator.LocalStack(t)
}

func TestMain(m *testing.M) {
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"} {
		os.Unsetenv(name)
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	os.Exit(m.Run())
}

// callCounter counts KMS calls where they leave the process.
type callCounter struct {
	mu    sync.Mutex
	calls map[string]int
	down  bool // KMS answers 503 to everything
}

func (c *callCounter) RoundTrip(r *http.Request) (*http.Response, error) {
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	c.mu.Lock()
	c.calls[operation]++
	down := c.down
	c.mu.Unlock()
	if down {
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

func (c *callCounter) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// take returns the calls since the last take.
func (c *callCounter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = make(map[string]int)
	return calls
}

// newClient returns a client of LocalStack's KMS and the counter of its calls.
func newClient(t *testing.T) (*kms.Client, *callCounter) {
	t.Helper()
	counter := &callCounter{calls: make(map[string]int)}
	return kms.New(kms.Options{
		Region:       region,
		BaseEndpoint: aws.String(endpoint(t)),
		Credentials:  credentials.NewStaticCredentialsProvider("test", "test", ""),
		HTTPClient:   &http.Client{Transport: counter},
	}), counter
}

func newKey(t *testing.T, client *kms.Client, input *kms.CreateKeyInput) *types.KeyMetadata {
	t.Helper()
	out, err := client.CreateKey(t.Context(), input)
	require.NoError(t, err)
	return out.KeyMetadata
}

// newProvider makes a provider on a new key.
func newProvider(t *testing.T) (provider.Provider, *kms.Client, *callCounter) {
	t.Helper()
	client, counter := newClient(t)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).KeyId, Client: client})
	require.NoError(t, err)
	counter.take()
	return p, client, counter
}
