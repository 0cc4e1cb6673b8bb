package branchkey

import (
	"context"
	"fmt"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the branch keys that URLs name, as ParseURL describes. A URL that names a table
// alone is refused. Its Type is "branch_key".
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        typeBranchKey,
	ProviderIDs: []string{providerID},
	Paths:       []string{"master", "trusted-master"},
	Guarded:     true,
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := ParseURL(u)
		if err != nil {
			return keyurl.Key{}, err
		}
		if c.BranchKeyID == "" && c.Supplier == nil {
			return keyurl.Key{}, fmt.Errorf("%q names no branch key; state its ID, or by=NAME if the value of the pair NAME is the ID", provider.RedactURL(u.String()))
		}
		k := keyurl.Key{Files: []string{c.File}, Local: c.File != "", Pair: u.Query().Get("by"), Open: c.open}
		for _, master := range c.Masters {
			k.Files = append(k.Files, master.KeyFile)
		}
		return k, nil
	},
}

// open makes the provider.
func (c Config) open(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
	c.KMS.MaxRetries, c.CheckLater = o.MaxRetries, o.CheckLater
	p, err := openProvider(ctx, c, o.Guard)
	if err != nil {
		return nil, err
	}
	return p, nil
}
