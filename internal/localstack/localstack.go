// Package localstack starts LocalStack, with its KMS and S3, in a container for tests and examples. It is a module of its own
// so that the library's users have none of its dependencies; tests of other modules run its command serve.
package localstack

import (
	"context"
	"fmt"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// Image is the last release that needs no account token.
const Image = "localstack/localstack:4.14.0"

// Region is the Region that tests use, and Credentials the access key and secret key: LocalStack takes any.
const (
	Region      = "eu-west-1"
	Credentials = "test"
)

// Container is a running LocalStack.
type Container struct {
	Endpoint  string // URL of every service
	container testcontainers.Container
}

// Start starts a container and waits until its services answer. The caller closes it.
func Start(ctx context.Context) (*Container, error) {
	const port = "4566/tcp"
	container, err := testcontainers.Run(ctx, Image,
		testcontainers.WithExposedPorts(port),
		testcontainers.WithEnv(map[string]string{"SERVICES": "kms,s3", "EAGER_SERVICE_LOADING": "1", "DISABLE_EVENTS": "1", "SKIP_SSL_CERT_DOWNLOAD": "1"}),
		testcontainers.WithWaitStrategyAndDeadline(2*time.Minute, wait.ForHTTP("/_localstack/health").WithPort(port)),
	)
	if err != nil {
		if container != nil {
			_ = container.Terminate(context.WithoutCancel(ctx))
		}
		return nil, fmt.Errorf("starting %s: %w", Image, err)
	}
	endpoint, err := container.PortEndpoint(ctx, port, "http")
	if err != nil {
		_ = container.Terminate(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("finding the port of %s: %w", Image, err)
	}
	return &Container{Endpoint: endpoint, container: container}, nil
}

// Close stops the container and removes it.
func (c *Container) Close() error { return c.container.Terminate(context.Background()) }
