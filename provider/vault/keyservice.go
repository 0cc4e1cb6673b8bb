package vault

import (
	"context"
	"net/url"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name:
//
//	vault://MOUNT/KEY
//
// with the optional parameters
//
//	address=URL             of the server; without it, VAULT_ADDR or BAO_ADDR
//	namespace=PATH          of the mount; without it, VAULT_NAMESPACE or BAO_NAMESPACE
//	role-id=ID              logs in by AppRole, with the secret ID in a file:
//	secret-id-file=PATH
//	kubernetes-role=ROLE    logs in by the pod's service account, or another's token in a file:
//	kubernetes-token-file=PATH
//	auth-mount=PATH         of AppRole or Kubernetes; default "approle" or "kubernetes"
//
// MOUNT is the path of the transit engine, which may have several parts. Without a role, the token
// is found as Config describes. A URL holds no token and no secret ID.
// Its Type is "hashicorp_vault", for OpenBao, too.
var KeyService = keyurl.Service{
	Scheme:      scheme,
	Type:        providerType,
	ProviderIDs: []string{providerID},
	Paths:       []string{"kubernetes-token-file", "secret-id-file"},
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, files, err := parseURL(u)
		return keyurl.Key{
			Files: files,
			Open: func(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
				c.CheckLater, c.MaxRetries = o.CheckLater, o.MaxRetries
				return NewProvider(ctx, c)
			},
		}, err
	},
}
