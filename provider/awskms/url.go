package awskms

import (
	"crypto"
	"fmt"
	"net/url"
	"strings"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// Schemes of URLs that name keys of AWS KMS.
const (
	scheme          = "awskms"           // one key
	discoveryScheme = "awskms-discovery" // all keys of stated accounts
)

// ParseURL returns the configuration that a URL stands for, without asking KMS. URLs are those of
// gocloud.dev:
//
//	awskms://alias/NAME?region=REGION
//	awskms://KEY-ID?region=REGION
//	awskms:///ARN                        of a key or an alias
//
// with the optional parameters
//
//	region=REGION                of the key; without it, the one that Config describes
//	profile=NAME                 of the shared AWS configuration files
//	endpoint=URL                 another KMS endpoint: a VPC endpoint, LocalStack
//	grant-tokens=TOKEN,TOKEN…    of grants too new to be known everywhere
//	public-key=PATH              a file of an RSA or EC key's public half in PEM, to encrypt
//	                             without KMS
//	peer=PATH                    a file of the other party's public key in PEM, of an EC key
//	hash=HASH                    of an RSA key's OAEP padding: "sha256", the default, or "sha1"
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
		return refuse("slashes are missing; write awskms://alias/NAME, awskms://KEY-ID or awskms:///ARN")
	}
	query, err := provider.URLParameters(u, "endpoint", "grant-tokens", "hash", "peer", "profile", "public-key", "region")
	if err != nil {
		return Config{}, err
	}

	c := Config{
		KeyID:         strings.TrimPrefix(u.Host+u.Path, "/"),
		Region:        query.Get("region"),
		Profile:       query.Get("profile"),
		Endpoint:      query.Get("endpoint"),
		GrantTokens:   arns.List(query.Get("grant-tokens")),
		PublicKeyFile: query.Get("public-key"),
		PeerFile:      query.Get("peer"),
	}
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
	if region := arns.Region(c.KeyID); region != "" && c.Region != "" && region != c.Region {
		return refuse("the ARN is in Region %s, the parameter says %s", region, c.Region)
	}
	switch hash := query.Get("hash"); hash {
	case "":
	case "sha1":
		c.Hash = crypto.SHA1
	case "sha256":
		c.Hash = crypto.SHA256
	default:
		return refuse("hash %q; known are sha1, sha256", hash)
	}
	if err := c.validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// parseDiscoveryURL returns the configuration that a URL stands for, as DiscoveryKeyService
// describes. The error holds provider.ErrInvalidKey.
func parseDiscoveryURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != discoveryScheme:
		return refuse("the scheme is %q, not %q", u.Scheme, discoveryScheme)
	case u.Opaque != "" || u.Host != "" || strings.Trim(u.Path, "/") != "":
		return refuse("discovery names no key; write awskms-discovery:?accounts=ACCOUNT&region=REGION")
	}
	query, err := provider.URLParameters(u, "accounts", "endpoint", "grant-tokens", "partition", "profile", "region")
	if err != nil {
		return Config{}, err
	}
	c := Config{
		Accounts:    arns.List(query.Get("accounts")),
		Partition:   query.Get("partition"),
		Region:      query.Get("region"),
		Profile:     query.Get("profile"),
		Endpoint:    query.Get("endpoint"),
		GrantTokens: arns.List(query.Get("grant-tokens")),
	}
	if err := c.validateDiscovery(); err != nil {
		return Config{}, err
	}
	return c, nil
}
