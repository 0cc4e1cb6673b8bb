package vault

import (
	"context"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name, as ParseURL describes.
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        provider.TypeHashiCorpVault,
	ProviderIDs: []string{providerID},
	Paths:       []string{"kubernetes-token-file", "secret-id-file"},
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := ParseURL(u)
		k := keyurl.Key{
			Open: func(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
				c.CheckLater, c.MaxRetries = o.CheckLater, o.MaxRetries
				return NewProvider(ctx, c)
			},
		}
		if c.AppRole != nil {
			k.Files = append(k.Files, c.AppRole.SecretIDFile)
		}
		if c.Kubernetes != nil {
			k.Files = append(k.Files, c.Kubernetes.TokenFile)
		}
		return k, err
	},
}
