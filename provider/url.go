package provider

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// URLParameters returns the query parameters of a URL that names a key. The error holds
// ErrInvalidKey if a parameter is not known, empty or given twice, if one that names a server is no
// URL of one, or if the URL has user information or a fragment.
func URLParameters(u *url.URL, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err == nil && u.User != nil {
		err = fmt.Errorf("it has user information")
	}
	if err == nil && u.Fragment != "" {
		err = fmt.Errorf("it has a fragment; write # as %%23")
	}
	for parameter, values := range query {
		switch {
		case !slices.Contains(known, parameter):
			err = fmt.Errorf("unknown parameter %q; known are %s", parameter, strings.Join(known, ", "))
		case len(values) > 1:
			err = fmt.Errorf("parameter %q comes twice", parameter)
		case values[0] == "":
			err = fmt.Errorf("parameter %q is empty", parameter)
		case slices.Contains(serverParameters, parameter) && !isServer(values[0]):
			err = fmt.Errorf("parameter %q is not an http or https URL, or has user information", parameter)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: URL %q: %w", ErrInvalidKey, RedactURL(u.String()), err)
	}
	return query, nil
}

// serverParameters are the parameters whose values are URLs of servers.
var serverParameters = []string{"address", "endpoint", "kms-endpoint", "table-endpoint"}

func isServer(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}

// ParseURL parses a URL, as url.Parse does. The error shows nothing of it.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	if err != nil && strings.Contains(err.Error(), "port") {
		err = errors.New("invalid port") // url's own text shows what may be a password
	}
	return u, err
}

// redactedValue replaces what may be secret in a URL, as [url.URL.Redacted] does.
const redactedValue = "xxxxx"

// plainParameters are the parameters of URLs of keys and buckets whose values are shown. If such a
// value is a URL itself, RedactURL redacts it, too.
var plainParameters = []string{
	// of keys
	"accounts", "address", "auth-mount", "by", "endpoint", "entries", "hash", "id", "key", "kms-endpoint", "kubernetes-role",
	"kubernetes-token-file", "logical-name", "master", "multi-region", "name", "namespace", "padding", "partition", "peer", "profile",
	"public-key", "region", "role-id", "secret-id-file", "table-endpoint", "trusted", "trusted-master", "ttl",
	// of buckets
	"accelerate", "anonymous", "awssdk", "create_dir", "disable_https", "domain", "dualstack", "fips", "hostname_immutable",
	"kmskeyid", "metadata", "no_tmp_dir", "prefix", "protocol", "rate_limiter_capacity", "request_checksum_calculation",
	"request_payer", "response_checksum_validation", "role", "ssetype",
	"s3ForcePathStyle", "storage_account", "use_path_style",
}

// RedactURL returns the text of a URL as errors and logs may show it. The user information, here
// and in URLs that are values of parameters, the fragment, and the values of parameters that no URL
// of a key or a bucket has are replaced by "xxxxx", and so is all of a text that is no URL.
func RedactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return redactedValue
	}
	if u.User != nil {
		u.User = url.User(redactedValue)
	}
	if u.Fragment != "" {
		u.Fragment, u.RawFragment = redactedValue, ""
	}
	if u.RawQuery == "" {
		return u.String()
	}
	parts := strings.Split(u.RawQuery, "&")
	for i, part := range parts {
		name, value, ok := strings.Cut(part, "=")
		if !ok && !strings.ContainsAny(name, "%;") {
			continue
		}
		plain, nameErr := url.QueryUnescape(name)
		unescaped, err := url.QueryUnescape(value)
		switch {
		case nameErr != nil || err != nil || strings.Contains(value, ";") || !slices.Contains(plainParameters, plain):
			parts[i] = name + "=" + redactedValue
		case strings.ContainsAny(unescaped, "@:"):
			if shown := RedactURL(unescaped); shown != unescaped {
				parts[i] = name + "=" + url.QueryEscape(shown)
			}
		}
	}
	u.RawQuery = strings.Join(parts, "&")
	return u.String()
}
