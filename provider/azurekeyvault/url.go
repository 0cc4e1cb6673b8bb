package azurekeyvault

import (
	"fmt"
	"net/url"
	"strings"

	"piko.sh/pikokms/provider"
)

// scheme is the scheme of the URLs that name keys of vaults.
const scheme = "azurekeyvault"

// parseURL returns the configuration that a URL stands for, as KeyService describes, without asking
// the vault. The error holds provider.ErrInvalidKey.
func parseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	case u.Opaque != "":
		return refuse("slashes are missing; write azurekeyvault://VAULT/KEY")
	}
	query, err := provider.URLParameters(u, "endpoint")
	if err != nil {
		return Config{}, err
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Host == "" || parts[0] == "" || len(parts) > 2 || len(parts) == 2 && parts[1] == "" {
		return refuse("write azurekeyvault://VAULT/KEY or azurekeyvault://VAULT/KEY/VERSION")
	}
	c := Config{Vault: u.Host, Key: parts[0], Endpoint: query.Get("endpoint")}
	if len(parts) == 2 {
		c.Version = parts[1]
	}
	if _, err := c.complete(); err != nil {
		return refuse("%s", strings.TrimPrefix(err.Error(), provider.ErrInvalidKey.Error()+": "))
	}
	return c, nil
}

// meantKey returns the URL for a key identifier, as Azure's tools name keys, or nothing.
func meantKey(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	if _, ok := suffixOf(strings.ToLower(u.Host)); !ok {
		return ""
	}
	name, ok := strings.CutPrefix(u.Path, "/keys/")
	if !ok {
		return ""
	}
	return scheme + "://" + u.Host + "/" + strings.TrimSuffix(name, "/")
}
