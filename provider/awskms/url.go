package awskms

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/provider"
)

// Schemes of URLs.
const (
	Scheme          = "awskms"           // of a key
	DiscoveryScheme = "awskms-discovery" // of all keys of stated accounts
)

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
// with the optional parameters
//
//	endpoint=URL                 another KMS endpoint: a VPC endpoint, LocalStack
//	grant-tokens=TOKEN,TOKEN…    of grants too new to be known everywhere
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
	query, err := provider.URLParameters(u, "endpoint", "grant-tokens", "region")
	if err != nil {
		return Config{}, err
	}

	c := Config{KeyID: strings.TrimPrefix(u.Host+u.Path, "/"), Region: query.Get("region"), Endpoint: query.Get("endpoint"), GrantTokens: list(query.Get("grant-tokens"))}
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
	if !isEndpoint(c.Endpoint) {
		return refuse("the endpoint %q is not an http or https URL", c.Endpoint)
	}
	if err := c.validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// list returns what commas separate.
func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// isEndpoint reports whether text is empty or may be an endpoint's URL.
func isEndpoint(text string) bool {
	endpoint, err := url.Parse(text)
	return text == "" || err == nil && (endpoint.Scheme == "https" || endpoint.Scheme == "http") && endpoint.Host != ""
}

// OpenDiscoveryURL opens the discovery keyring that a URL stands for, as ParseDiscoveryURL says. The errors are
// ParseDiscoveryURL's and NewDiscovery's.
func OpenDiscoveryURL(ctx context.Context, u *url.URL) (*Discovery, error) {
	c, err := ParseDiscoveryURL(u)
	if err != nil {
		return nil, err
	}
	return NewDiscovery(ctx, c)
}

// ParseDiscoveryURL returns the configuration that a URL stands for:
//
//	awskms-discovery:?accounts=ACCOUNT,ACCOUNT…&region=REGION
//
// with the optional parameters
//
//	partition=PARTITION          of the accounts, default "aws"
//	endpoint=URL                 another KMS endpoint: a VPC endpoint, LocalStack
//	grant-tokens=TOKEN,TOKEN…    of grants too new to be known everywhere
//
// The error holds provider.ErrInvalidKey.
func ParseDiscoveryURL(u *url.URL) (DiscoveryConfig, error) {
	refuse := func(format string, arguments ...any) (DiscoveryConfig, error) {
		return DiscoveryConfig{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, u.Redacted(), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != DiscoveryScheme:
		return refuse("the scheme is %q, not %q", u.Scheme, DiscoveryScheme)
	case u.Opaque != "" || u.Host != "" || strings.Trim(u.Path, "/") != "":
		return refuse("discovery names no key; write awskms-discovery:?accounts=ACCOUNT&region=REGION")
	}
	query, err := provider.URLParameters(u, "accounts", "endpoint", "grant-tokens", "partition", "region")
	if err != nil {
		return DiscoveryConfig{}, err
	}
	c := DiscoveryConfig{
		Accounts:    list(query.Get("accounts")),
		Partition:   query.Get("partition"),
		Region:      query.Get("region"),
		Endpoint:    query.Get("endpoint"),
		GrantTokens: list(query.Get("grant-tokens")),
	}
	if !isEndpoint(c.Endpoint) {
		return refuse("the endpoint %q is not an http or https URL", c.Endpoint)
	}
	if err := c.validate(); err != nil {
		return DiscoveryConfig{}, err
	}
	return c, nil
}
