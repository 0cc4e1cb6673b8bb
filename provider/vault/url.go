package vault

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
	"github.com/hashicorp/vault/api/auth/kubernetes"

	"piko.sh/pikokms/provider"
)

// scheme is the scheme of the URLs that name keys of a transit engine.
const scheme = "vault"

// parseURL returns the configuration that a URL stands for, as KeyService describes, and the files
// to log in with. It does not ask the server. The error holds provider.ErrInvalidKey.
func parseURL(u *url.URL) (c Config, files []string, err error) {
	refuse := func(format string, arguments ...any) (Config, []string, error) {
		return Config{}, nil, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	case u.Opaque != "":
		return refuse("slashes are missing; write vault://MOUNT/KEY")
	}
	query, err := provider.URLParameters(u, "address", "auth-mount", "kubernetes-role", "kubernetes-token-file", "namespace", "role-id", "secret-id-file")
	if err != nil {
		return Config{}, nil, err
	}
	path := u.Host + u.Path
	slash := strings.LastIndex(path, "/")
	if slash < 0 {
		return refuse("it names a mount and no key; write vault://MOUNT/KEY, such as vault://transit/my-key")
	}
	c = Config{Address: query.Get("address"), Namespace: strings.Trim(query.Get("namespace"), "/"), Mount: path[:slash], Key: path[slash+1:]}
	isAppRole := query.Has("role-id") || query.Has("secret-id-file")
	isKubernetes := query.Has("kubernetes-role") || query.Has("kubernetes-token-file")
	switch {
	case isAppRole && isKubernetes:
		return refuse("role-id and kubernetes-role exclude each other")
	case isAppRole && !query.Has("role-id"):
		return refuse("secret-id-file is for role-id, which is missing")
	case isAppRole && !query.Has("secret-id-file"):
		return refuse("role-id needs secret-id-file, the path of a file with the secret ID")
	case isKubernetes && !query.Has("kubernetes-role"):
		return refuse("kubernetes-token-file is for kubernetes-role, which is missing")
	case query.Has("auth-mount") && !isAppRole && !isKubernetes:
		return refuse("auth-mount is for role-id or kubernetes-role")
	case isAppRole:
		c.Login, files = byAppRole(query), []string{query.Get("secret-id-file")}
	case isKubernetes:
		c.Login, files = byKubernetes(query), []string{query.Get("kubernetes-token-file")}
	}
	checked := c
	if checked.Address == "" {
		checked.Address = "https://localhost" // the environment's address is not checked here
	}
	if fault := checked.fault(); fault != "" {
		return refuse("%s", fault)
	}
	return c, files, nil
}

// byAppRole returns the Login of a URL with a role-id.
func byAppRole(query url.Values) func() (api.AuthMethod, error) {
	var options []approle.LoginOption
	if query.Has("auth-mount") {
		options = append(options, approle.WithMountPath(query.Get("auth-mount")))
	}
	return func() (api.AuthMethod, error) {
		return approle.NewAppRoleAuth(query.Get("role-id"), &approle.SecretID{FromFile: query.Get("secret-id-file")}, options...)
	}
}

// byKubernetes returns the Login of a URL with a kubernetes-role. It reads the token's file anew at
// each login, since Kubernetes renews it.
func byKubernetes(query url.Values) func() (api.AuthMethod, error) {
	var options []kubernetes.LoginOption
	if query.Has("auth-mount") {
		options = append(options, kubernetes.WithMountPath(query.Get("auth-mount")))
	}
	if query.Has("kubernetes-token-file") {
		options = append(options, kubernetes.WithServiceAccountTokenPath(query.Get("kubernetes-token-file")))
	}
	return func() (api.AuthMethod, error) {
		return kubernetes.NewKubernetesAuth(query.Get("kubernetes-role"), options...)
	}
}
