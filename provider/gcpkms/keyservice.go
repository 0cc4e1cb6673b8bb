package gcpkms

import (
	"context"
	"net/url"
	"strings"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name, which are those of gocloud.dev:
//
//	gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY
//
// with the optional parameter
//
//	endpoint=URL    another endpoint: https://HOST, or http://HOST:PORT for an emulator
//
// Its Type is "gcp_kms".
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        providerType,
	ProviderIDs: []string{providerID},
	Meant: func(text string) string {
		if strings.HasPrefix(text, "projects/") { // as in Google's tools
			return scheme + "://" + text
		}
		return ""
	},
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
