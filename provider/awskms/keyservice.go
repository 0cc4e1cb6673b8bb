package awskms

import (
	"context"
	"net/url"
	"regexp"
	"strings"

	"piko.sh/pikokms/internal/ecdhwrap"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name, as ParseURL describes. Its Type is "aws_kms".
var KeyService = keyurl.Service{
	Scheme: scheme,
	Type:   providerType,
	// A data key that a raw EC key wraps may be for an EC key of KMS.
	ProviderIDs: []string{providerID, ecdhwrap.RawID},
	Paths:       []string{"peer", "public-key"},
	Meant:       meantKey,
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := ParseURL(u)
		return keyurl.Key{
			Files: []string{c.PublicKeyFile, c.PeerFile},
			Open: func(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
				c.CheckLater, c.MaxRetries = o.CheckLater, o.MaxRetries
				return NewProvider(ctx, c)
			},
		}, err
	},
}

// DiscoveryKeyService opens keyrings that decrypt under all keys of the accounts that a URL names:
//
//	awskms-discovery:?accounts=ACCOUNT,ACCOUNT…&region=REGION
//
// with the optional parameters
//
//	region=REGION                of KMS; without it, the one that Config describes
//	profile=NAME                 of the shared AWS configuration files
//	partition=PARTITION          of the accounts, default "aws"
//	endpoint=URL                 another KMS endpoint: a VPC endpoint, LocalStack
//	grant-tokens=TOKEN,TOKEN…    of grants too new to be known everywhere
var DiscoveryKeyService = keyurl.Service{
	Scheme:      discoveryScheme,
	Type:        providerType,
	ProviderIDs: []string{providerID},
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := parseDiscoveryURL(u)
		return keyurl.Key{
			Open: func(ctx context.Context, o keyurl.Options) (provider.Unwrapper, error) {
				c.MaxRetries = o.MaxRetries
				return NewDiscovery(ctx, c)
			},
		}, err
	},
}

var (
	arnPattern = regexp.MustCompile(`^arn:[^:]*:kms:`)
	idPattern  = regexp.MustCompile(`^(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

// meantKey returns the URL of a key that is named as in AWS's tools.
func meantKey(text string) string {
	switch {
	case arnPattern.MatchString(text):
		return scheme + ":///" + text
	case strings.HasPrefix(text, "alias/"), idPattern.MatchString(text):
		return scheme + "://" + text + "?region=REGION"
	}
	return ""
}
