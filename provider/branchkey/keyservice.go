package branchkey

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the branch keys that URLs name, as ParseURL describes. A URL that names a table
// alone is refused.
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        TypeBranchKey,
	ProviderIDs: []string{ProviderID},
	Paths:       []string{"master", "trusted-master"},
	Guarded:     true,
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := ParseURL(u)
		if err != nil {
			return keyurl.Key{}, err
		}
		if c.BranchKeyID == "" && c.By == "" {
			return keyurl.Key{}, fmt.Errorf("%q names no branch key; state its ID, or by=NAME if the value of the pair NAME is the ID", provider.RedactURL(u.String()))
		}
		k := keyurl.Key{Files: []string{c.File}, Local: c.File != "", Pair: c.By, Open: c.openGuarded}
		for _, master := range c.Masters {
			k.Files = append(k.Files, master.KeyFile)
		}
		return k, nil
	},
}

// openGuarded makes the provider. The guard also makes the call that checks the branch key.
func (c URLConfig) openGuarded(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
	c.KMS.MaxRetries, c.Table.MaxRetries = o.MaxRetries, o.MaxRetries
	p, err := c.Open(ctx, func(config *Config) { config.CheckLater = true })
	if err != nil {
		return nil, err
	}
	p.guard = o.Guard
	if !o.CheckLater {
		if err := p.check(ctx); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}
