package keys

import (
	"context"
	"errors"
	"fmt"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

// guard is a provider.Guard that counts the calls for branch keys, and makes them wait if their
// rate is bounded. Most messages need no call.
func (k *Key) guard(ctx context.Context, _ string, call func(context.Context) error) error {
	if k.Limiter != nil && k.IsRemote() {
		if err := k.Limiter.Wait(ctx); err != nil {
			return fmt.Errorf("%w: --kms-rate leaves no room for a call within %v: %w", provider.ErrProviderUnavailable, k.Timeout, err)
		}
		ctx = provider.WithTrace(ctx, k.limitRetries(provider.TraceOf(ctx)))
	}
	err := call(ctx)
	// These errors come from the table alone, without a call: it has no such branch key, has it under
	// another KMS key, or has it disabled or destroyed.
	neededNoCall := errors.Is(err, provider.ErrKeyNotFound) || errors.Is(err, provider.ErrUntrustedKey) ||
		errors.Is(err, branchkey.ErrDisabled) || errors.Is(err, branchkey.ErrDestroyed)
	if k.IsRemote() && !neededNoCall {
		k.Calls.Add(1)
	}
	return err
}
