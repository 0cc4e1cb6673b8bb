package azurekeyvault

import (
	"context"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name:
//
//	azurekeyvault://VAULT/KEY
//	azurekeyvault://VAULT/KEY/VERSION
//
// with the optional parameter
//
//	endpoint=URL    another endpoint: https://HOST, or http://HOST:PORT for an emulator
//
// VAULT is the name of a vault of Azure's public cloud, or the full host name of any vault or
// managed HSM. With a VERSION, encryption is under that one; decryption is under any.
// Its Type is "azure_keyvault", for a managed HSM, too.
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        providerType,
	ProviderIDs: []string{providerID},
	Meant:       meantKey,
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := parseURL(u)
		return keyurl.Key{
			Open: func(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
				c.CheckLater, c.MaxRetries = o.CheckLater, o.MaxRetries
				return NewProvider(ctx, c)
			},
		}, err
	},
}
