package awskms

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/provider"
)

// Scheme is the scheme of the URLs that name AWS KMS keys.
const Scheme = "awskms"

// OpenURL opens the key that a URL names, as ParseURL says. The errors are ParseURL's and NewProvider's.
func OpenURL(ctx context.Context, u *url.URL) (*Provider, error) {
	c, err := ParseURL(u)
	if err != nil {
		return nil, err
	}
	return NewProvider(ctx, c)
}

// ParseURL returns the configuration that a URL stands for, without asking KMS. URLs are those of gocloud.dev:
//
//	awskms://alias/NAME?region=REGION
//	awskms://KEY-ID?region=REGION
//	awskms:///ARN                        of a key or an alias; it names the Region itself
//
// with the optional parameter
//
//	endpoint=URL    another KMS endpoint: a VPC endpoint, LocalStack
//
// The error holds provider.ErrInvalidKey.
func ParseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, u.Redacted(), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != Scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, Scheme)
	case u.Opaque != "":
		return refuse("slashes are missing; write awskms://alias/NAME, awskms://KEY-ID or awskms:///ARN")
	}
	query, err := provider.URLParameters(u, "endpoint", "region")
	if err != nil {
		return Config{}, err
	}

	c := Config{KeyID: strings.TrimPrefix(u.Host+u.Path, "/"), Region: query.Get("region"), Endpoint: query.Get("endpoint")}
	alias, isAlias := strings.CutPrefix(c.KeyID, "alias/")
	isARN := strings.HasPrefix(c.KeyID, "arn:")
	switch {
	case c.KeyID == "":
		return refuse("it names no key")
	case isAlias && alias == "":
		return refuse("it names no alias")
	case !isAlias && !isARN && strings.Contains(c.KeyID, "/"):
		return refuse("%q is no key ID; write awskms://alias/NAME, awskms://KEY-ID or awskms:///ARN", c.KeyID)
	}
	if c.Region == "" && isARN {
		if a, err := arn.Parse(c.KeyID); err == nil {
			c.Region = a.Region
		}
	}
	if c.Region == "" {
		return refuse("it names no Region; add ?region=REGION")
	}
	if c.Endpoint != "" {
		endpoint, err := url.Parse(c.Endpoint)
		if err != nil || endpoint.Scheme != "https" && endpoint.Scheme != "http" || endpoint.Host == "" {
			return refuse("the endpoint %q is not an http or https URL", c.Endpoint)
		}
	}
	if err := c.validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}
