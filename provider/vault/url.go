package vault

import (
	"fmt"
	"net/url"
	"strings"

	"piko.sh/pikokms/provider"
)

// scheme is the scheme of the URLs that name keys of a transit engine.
const scheme = "vault"

// ParseURL returns the configuration that a URL stands for, without asking the server:
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
//
// The error holds provider.ErrInvalidKey.
func ParseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	case u.Opaque != "":
		return refuse("slashes are missing; write vault://MOUNT/KEY")
	}
	query, err := provider.URLParameters(u, "address", "auth-mount", "kubernetes-role", "kubernetes-token-file", "namespace", "role-id", "secret-id-file")
	if err != nil {
		return Config{}, err
	}
	whole := u.Host + u.Path
	slash := strings.LastIndex(whole, "/")
	if slash < 0 {
		return refuse("it names a mount and no key; write vault://MOUNT/KEY, such as vault://transit/my-key")
	}
	c := Config{Address: query.Get("address"), Namespace: strings.Trim(query.Get("namespace"), "/"), Mount: whole[:slash], Key: whole[slash+1:]}
	if query.Has("role-id") || query.Has("secret-id-file") {
		c.AppRole = &AppRole{RoleID: query.Get("role-id"), SecretIDFile: query.Get("secret-id-file"), Mount: query.Get("auth-mount")}
	}
	if query.Has("kubernetes-role") || query.Has("kubernetes-token-file") {
		c.Kubernetes = &Kubernetes{Role: query.Get("kubernetes-role"), TokenFile: query.Get("kubernetes-token-file"), Mount: query.Get("auth-mount")}
	}
	if query.Has("auth-mount") && c.AppRole == nil && c.Kubernetes == nil {
		return refuse("auth-mount is for role-id or kubernetes-role")
	}
	checked := c
	if checked.Address == "" {
		checked.Address = "https://localhost" // the environment's address is not checked here
	}
	if fault := checked.fault(); fault != "" {
		return refuse("%s", fault)
	}
	return c, nil
}
