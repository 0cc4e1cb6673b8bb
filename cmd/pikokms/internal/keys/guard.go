package keys

import (
	"context"
	"errors"
	"fmt"

	"piko.sh/pikokms/provider"
)

// guard is a provider.Guard that counts the calls for branch keys, and makes them wait if their
// rate is bounded. Most messages need no call.
func (k *Key) guard(ctx context.Context, _ string, call func(context.Context) error) error {
	if k.Limiter != nil && k.IsRemote() {
		if err := k.Limiter.Wait(ctx); err != nil {
			return fmt.Errorf("%w: --kms-rate leaves no room for a call within %v: %w", provider.ErrProviderUnavailable, k.Timeout, err)
		}
		ctx = provider.WithRequests(ctx, k.pay())
	}
	err := call(ctx)
	// No call was needed to see that the table has no such branch key, or has it under another KMS
	// key.
	if k.IsRemote() && !errors.Is(err, provider.ErrKeyNotFound) && !errors.Is(err, provider.ErrUntrustedKey) {
		k.Calls.Add(1)
	}
	return err
}
