package keys

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

// parseBranchKey parses the URL of a branch key, as parseKey does.
func (k *Key) parseBranchKey(u *url.URL, check bool) error {
	c, err := branchkey.ParseURL(u)
	if err != nil {
		return err
	}
	if c.BranchKeyID == "" && c.By == "" {
		return fmt.Errorf("%q names no branch key; state its ID, or by=NAME if the value of the pair NAME is the ID", k.Text)
	}
	k.By, k.InFile, k.Files = c.By, c.File != "", []string{c.File}
	for _, master := range c.Masters {
		k.Files = append(k.Files, master.KeyFile)
	}
	k.open = func(ctx context.Context) (provider.Unwrapper, error) {
		p, err := c.Open(ctx, func(config *branchkey.Config) {
			config.CheckLater = !check
			if c.By != "" {
				config.Supplier = picker(c)
			}
		})
		if err != nil {
			return nil, err
		}
		return p.Guarded(k.countCall), nil
	}
	return nil
}

// countCall is a provider.Guard that counts the calls for branch keys, and makes them wait if their
// rate is bounded. Most messages need no call.
func (k *Key) countCall(ctx context.Context, _ string, call func(context.Context) error) error {
	if k.Limiter != nil && k.IsRemote() {
		if err := k.Limiter.Wait(ctx); err != nil {
			return fmt.Errorf("%w: --kms-rate leaves no room for a call within %v: %w", provider.ErrProviderUnavailable, k.Timeout, err)
		}
		ctx = provider.WithRequests(ctx, k.pay())
	}
	err := call(ctx)
	// No call was needed to see that the table has no such branch key, or has it under another KMS key.
	if k.IsRemote() && !errors.Is(err, provider.ErrKeyNotFound) && !errors.Is(err, provider.ErrUntrustedKey) {
		k.Calls.Add(1)
	}
	return err
}

// picker returns what finds the branch key of a message by the value of a pair.
func picker(c *branchkey.URLConfig) branchkey.Supplier {
	byPair := branchkey.ByPair(c.By)
	return func(ctx context.Context, pairs map[string]string) (string, error) {
		id, err := byPair(ctx, pairs)
		if err == nil && id == "" && c.BranchKeyID == "" {
			err = fmt.Errorf("%w: there is no pair %q, whose value is the branch key's ID; -c states one", provider.ErrKeyNotFound, c.By)
		}
		return id, err
	}
}
