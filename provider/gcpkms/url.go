package gcpkms

import (
	"fmt"
	"net/url"

	"piko.sh/pikokms/provider"
)

// scheme is the scheme of the URLs that name keys of Cloud KMS.
const scheme = "gcpkms"

// parseURL returns the configuration that a URL stands for, as KeyService describes, without asking
// Cloud KMS. The error holds provider.ErrInvalidKey.
func parseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	if u.Scheme != scheme {
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	}
	query, err := provider.URLParameters(u, "endpoint")
	if err != nil {
		return Config{}, err
	}
	name := u.Host + u.Path
	if key := withoutVersion(name); key != name && isKeyName(key) {
		return refuse("it names a version; leave %s out, since Cloud KMS encrypts under the primary version and finds the one to decrypt", name[len(key):])
	}
	parts := cryptoKey.FindStringSubmatch(name)
	if parts == nil {
		return refuse("it names no key; write gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY")
	}
	c := Config{ProjectID: parts[1], Location: parts[2], KeyRing: parts[3], KeyName: parts[4], Endpoint: query.Get("endpoint")}
	if _, err := c.endpoint(); err != nil {
		return refuse("%v", err)
	}
	return c, nil
}
