package awskms

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// NewClient returns a client for calls of KMS that a provider does not make, such as those that
// describe its key. The client reaches KMS as the configuration's provider does, with the same
// bounds. NewClient makes no call, and ignores the fields that do not say how to reach KMS. The
// error holds provider.ErrInvalidKey.
func NewClient(ctx context.Context, c Config) (*kms.Client, error) {
	if err := c.validateConnection(); err != nil {
		return nil, err
	}
	connected, err := c.connect(ctx)
	return connected.client, err
}
