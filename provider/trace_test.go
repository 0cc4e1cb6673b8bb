package provider_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

// seen is a provider.Trace of a single goroutine.
type seen struct {
	requests int
	failed   []string
}

func (s *seen) Request() { s.requests++ }

func (s *seen) Failed(err error) { s.failed = append(s.failed, err.Error()) }

// A request that the caller gave up is no failure of the key service.
func TestTrace(t *testing.T) {
	provider.TraceOf(t.Context()).Request()
	provider.TraceOf(t.Context()).Failed(errors.New("nobody asks"))

	s := new(seen)
	ctx, cancel := context.WithCancel(provider.WithTrace(t.Context(), s))
	defer cancel()
	provider.TraceOf(ctx).Request()
	provider.TraceOf(ctx).Failed(errors.New("HTTP 503"))
	provider.TraceOf(ctx).Failed(fmt.Errorf("sending: %w", context.Canceled))
	provider.TraceOf(ctx).Request()
	cancel()
	provider.TraceOf(ctx).Failed(errors.New("cut off"))
	require.Equal(t, &seen{2, []string{"HTTP 503"}}, s)
}
