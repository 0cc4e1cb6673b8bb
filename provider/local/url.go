package local

import (
	"crypto"
	"fmt"
	"maps"
	"net/url"
	"runtime"
	"slices"
	"strings"

	"piko.sh/pikokms/provider"
)

// scheme is the scheme of the URLs that name local keys.
const scheme = "local"

// ParseURL returns the configuration that a URL stands for. It does not open the key.
//
//	local:///PATH    an absolute path; on Windows local:///C:/PATH
//	local:PATH       a path relative to the working directory
//
// The optional parameters are
//
//	namespace=NAMESPACE    default "piko"
//	name=NAME              default "local"
//	padding=PADDING        of an RSA key: "oaep-mgf1", the default, or "pkcs1", which only reads
//	hash=HASH              of an RSA key with oaep-mgf1: "sha1", "sha256" (the default), "sha384"
//	                       or "sha512"
//	peer=PATH              a file of the other party's public EC key, for an EC private key
//
// URLs are percent-encoded: a space in a path is %20. The error holds provider.ErrInvalidKey.
func ParseURL(u *url.URL) (Config, error) {
	refuse := func(format string, arguments ...any) (Config, error) {
		return Config{}, fmt.Errorf("%w: URL %q: %s", provider.ErrInvalidKey, provider.RedactURL(u.String()), fmt.Sprintf(format, arguments...))
	}
	switch {
	case u.Scheme != scheme:
		return refuse("the scheme is %q, not %q", u.Scheme, scheme)
	case u.Host != "":
		return refuse("%q stands where a host would; write local:///PATH for an absolute path, local:PATH for a relative one", u.Host)
	}
	query, err := provider.URLParameters(u, "hash", "name", "namespace", "padding", "peer")
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
	c := Config{KeyFile: path, Namespace: query.Get("namespace"), Name: query.Get("name"), PeerFile: query.Get("peer")}
	if query.Has("padding") {
		if c.PKCS1v15, err = choose("padding", query.Get("padding"), paddings); err != nil {
			return refuse("%v", err)
		}
		// A padding or hash in the URL is only for an RSA key, even if it is the default.
		if c.Hash = crypto.SHA256; c.PKCS1v15 {
			c.Hash = 0
		}
	}
	if query.Has("hash") {
		if c.Hash, err = choose("hash", query.Get("hash"), hashes); err != nil {
			return refuse("%v", err)
		}
	}
	return c, nil
}

var (
	paddings = map[string]bool{"oaep-mgf1": false, "pkcs1": true} // Config.PKCS1v15
	hashes   = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}
)

// choose returns the value of a parameter's text.
func choose[T any](parameter, text string, known map[string]T) (T, error) {
	chosen, ok := known[text]
	if !ok {
		return chosen, fmt.Errorf("%s %q; known are %s", parameter, text, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	return chosen, nil
}

// trimDrive removes the slash before a drive letter in a URL's path.
func trimDrive(path string, windows bool) string {
	if windows && len(path) >= 3 && path[0] == '/' && path[2] == ':' && strings.ContainsAny(path[1:2], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return path[1:]
	}
	return path
}
