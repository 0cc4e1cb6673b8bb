// Package localstack starts LocalStack, with its KMS and S3, in a container for tests and examples.
// It is in the module lab, so the library's users have none of its dependencies. Tests of other
// modules run its command serve.
package localstack

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// Image is the last release of LocalStack that needs no account token.
const Image = "localstack/localstack:4.14.0"

// Region is the Region that tests use. Credentials is both the access key ID and the secret key,
// since LocalStack accepts any.
const (
	Region      = "eu-west-1"
	Credentials = "test"
)

// Variable is the environment variable with the URL of a running LocalStack. If it is set, Start
// returns that one, so the test binaries of a whole run share it. Two of them must not use the same
// names in it.
const Variable = "PIKOKMS_LOCALSTACK_URL"

// startup is how long a container may take to be ready. On a busy machine it takes over a minute.
const startup = 3 * time.Minute

// patience is how long a LocalStack that is ready may take to answer.
const patience = 20 * time.Second

// Container is a running LocalStack.
type Container struct {
	Endpoint  string                   // URL of every service
	container testcontainers.Container // nil if it is not ours
}

// Start starts a container, unless Variable names one, and waits until its services answer. The
// caller closes it.
func Start(ctx context.Context) (*Container, error) {
	if endpoint := os.Getenv(Variable); endpoint != "" {
		if err := waitForAnswer(ctx, endpoint, patience); err != nil {
			return nil, fmt.Errorf("the LocalStack that %s names does not answer: %w", Variable, err)
		}
		return &Container{Endpoint: endpoint}, nil
	}
	const port = "4566/tcp"
	container, err := testcontainers.Run(ctx, Image,
		testcontainers.WithExposedPorts(port),
		testcontainers.WithEnv(map[string]string{"SERVICES": "kms,s3", "EAGER_SERVICE_LOADING": "1", "DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1"}),
		// Start waits for a line of LocalStack's log, not for an answer: where the tests can't reach
		// its port, no answer would ever come, and reach explains why.
		testcontainers.WithWaitStrategyAndDeadline(startup, wait.ForLog("Ready.").WithStartupTimeout(startup)),
	)
	started := &Container{container: container}
	if err != nil {
		if container != nil {
			_ = started.Close()
		}
		return nil, fmt.Errorf("starting %s: %w", Image, err)
	}
	if started.Endpoint, err = container.PortEndpoint(ctx, port, "http"); err != nil {
		_ = started.Close()
		return nil, fmt.Errorf("finding the port of %s: %w", Image, err)
	}
	if err := reach(ctx, started.Endpoint, patience); err != nil {
		_ = started.Close()
		return nil, err
	}
	return started, nil
}

// reach checks that a ready LocalStack answers at the URL that testcontainers chose. That URL is
// wrong, for example, if the tests run in a container beside the engine.
func reach(ctx context.Context, endpoint string, patience time.Duration) error {
	err := waitForAnswer(ctx, endpoint, patience)
	if err == nil || ctx.Err() != nil {
		return err
	}
	where := "the address of the machine where the Docker engine publishes ports"
	if guess, parseErr := url.Parse(endpoint); parseErr == nil {
		const loopback = "127.0.0.1"
		guess.Host = net.JoinHostPort(loopback, guess.Port())
		if waitForAnswer(ctx, guess.String(), patience) == nil {
			where = loopback
		}
	}
	return fmt.Errorf("LocalStack is ready, but does not answer at %s, which is a guess; set TESTCONTAINERS_HOST_OVERRIDE to %s: %w", endpoint, where, err)
}

// waitForAnswer asks LocalStack for its health until it answers.
func waitForAnswer(ctx context.Context, endpoint string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		err := health(ctx, endpoint)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return cmp.Or(last, err) // the last error says why, and ctx's only that time is up
		}
		last = err
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func health(ctx context.Context, endpoint string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/_localstack/health", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // not through a proxy
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", request.URL, response.Status)
	}
	return nil
}

// Close stops the container and removes it, if Start started it.
func (c *Container) Close() error {
	if c.container == nil {
		return nil
	}
	return c.container.Terminate(context.Background())
}
