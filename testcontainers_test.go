package pikokms_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider/awskms"
)

const region = "eu-west-1"

// localStack is the one container of this package's tests: a process of the nested module
// internal/localstack, which holds the testcontainers dependency, ends the container when its
// standard input ends.
var localStack struct {
	once     sync.Once
	endpoint string
	err      error
	stop     func()
}

func startLocalStack() {
	if running := os.Getenv("PIKOKMS_LOCALSTACK_URL"); running != "" {
		localStack.endpoint = running
		return
	}
	command := exec.Command("go", "run", "./serve")
	command.Dir = filepath.Join("internal", "localstack")
	command.Env = append(os.Environ(), "GOFLAGS=") // not built with the race detector when the tests are
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		localStack.err = err
		return
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		localStack.err = err
		return
	}
	if localStack.err = command.Start(); localStack.err != nil {
		return
	}
	localStack.stop = func() { _ = stdin.Close(); _ = command.Wait() }
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		localStack.stop()
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		localStack.err = fmt.Errorf("%s", lines[max(0, len(lines)-2)])
		return
	}
	localStack.endpoint = strings.TrimSpace(line)
}

// endpoint returns LocalStack's URL. The test is skipped on a machine without Docker, and in short
// mode if no LocalStack is running.
func endpoint(t *testing.T) string {
	t.Helper()
	if testing.Short() && os.Getenv("PIKOKMS_LOCALSTACK_URL") == "" {
		t.Skip("skipped: LocalStack is not started in short mode")
	}
	if os.Getenv("PIKOKMS_REQUIRE_DOCKER") != "1" && exec.Command("docker", "info").Run() != nil {
		t.Skip("skipped: LocalStack needs a Docker engine, and none answers (PIKOKMS_REQUIRE_DOCKER=1 makes this a failure)")
	}
	localStack.once.Do(startLocalStack)
	require.NoError(t, localStack.err, "LocalStack did not start")
	return localStack.endpoint
}

func TestMain(m *testing.M) {
	os.Unsetenv("AWS_PROFILE")
	os.Unsetenv("AWS_SESSION_TOKEN")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	code := m.Run()
	if localStack.stop != nil {
		localStack.stop()
	}
	os.Exit(code)
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
func newProvider(t *testing.T) (*awskms.Provider, *kms.Client, *callCounter) {
	t.Helper()
	client, counter := newClient(t)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).KeyId, Client: client})
	require.NoError(t, err)
	counter.take()
	return p, client, counter
}
