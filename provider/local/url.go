package local

import (
	"fmt"
	"net/url"
	"runtime"
	"strings"

	"piko.sh/pikokms/provider"
)

// Scheme is the scheme of the URLs that name local keys.
const Scheme = "local"

// OpenURL opens the key that a URL names, as ParseURL says.
func OpenURL(u *url.URL) (*Provider, error) {
	c, err := ParseURL(u)
	if err != nil {
		return nil, err
	}
	return NewProvider(c)
}

// ParseURL returns the configuration that a URL stands for, without opening the key:
//
//	local:///PATH    an absolute path; on Windows local:///C:/PATH
//	local:PATH       a path relative to the working directory
//
// with the optional parameters
//
//	namespace=NAMESPACE    default "piko"
//	name=NAME              default "local"
//
// Everything is percent-encoded as URLs are: a space in a path is %20. The error holds provider.ErrInvalidKey.
func ParseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, u.Redacted(), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != Scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, Scheme)
	case u.Host != "":
		return refuse("%q stands where a host would; write local:///PATH for an absolute path, local:PATH for a relative one", u.Host)
	}
	query, err := provider.URLParameters(u, "name", "namespace")
	if err != nil {
		return Config{}, err
	}
	path := trimDrive(u.Path, runtime.GOOS == "windows")
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return refuse("%v", err)
		}
	}
	if path == "" {
		return refuse("it names no key file")
	}
	return Config{KeyFile: path, Namespace: query.Get("namespace"), Name: query.Get("name")}, nil
}

// trimDrive removes the slash that stands before a drive letter in a URL.
func trimDrive(path string, windows bool) string {
	if windows && len(path) >= 3 && path[0] == '/' && path[2] == ':' && strings.ContainsAny(path[1:2], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return path[1:]
	}
	return path
}
