// Package keyurl opens keys by their URLs, such as awskms:///ARN and local:PATH. The package of
// each key service has a [Service] for its scheme, and a program lists those that it takes:
//
//	key, err := keyurl.Parse(text, awskms.KeyService, local.KeyService)
//	keyring, err := key.Open(ctx, keyurl.Options{})
package keyurl

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"piko.sh/pikokms/provider"
)

// Service is a kind of key that URLs of one scheme name.
type Service struct {
	Scheme string        // of the URLs, such as "awskms"
	Type   provider.Type // of the keyrings

	// ProviderIDs are the beginnings of the provider IDs of the data keys that such a key unwraps,
	// so that the service is asked about no others. It is empty if the data keys may have any.
	ProviderIDs []string

	// Paths are the parameters whose values are paths of files, or URLs of key files.
	Paths []string

	// Guarded is set if the keyrings cache keys of their own, as a provider.Guarded does, and so
	// call the service for few data keys only.
	Guarded bool

	// Meant returns the URL of a key for a text that is the key's name in other tools, and an empty
	// string for any other text. It may be nil.
	Meant func(text string) string

	// Parse parses a URL of the scheme. It makes no call and opens no file. The error shows nothing
	// that may be secret.
	Parse func(u *url.URL) (Key, error)
}

// Key is a key that a URL names.
type Key struct {
	Service Service // set by Parse of this package, and so is URL
	URL     *url.URL

	Files []string // on this computer, that hold the key or give access to it
	Local bool     // whether files hold the whole key, so that no key service is asked

	// Pair is the name of the pair of the encryption context whose value picks the key, or empty.
	Pair string

	// Open makes the keyring, which is also a provider.Wrapper unless it only decrypts. If it is an
	// io.Closer, the caller closes it. The keyrings of this project are provider.Providers, but for
	// that of awskms.DiscoveryKeyService.
	Open func(ctx context.Context, o Options) (provider.Unwrapper, error)
}

// Options are how a key is opened.
type Options struct {
	CheckLater bool // make no call to check the key, so that a program can start while it is down
	MaxRetries int  // retries of a failed attempt that may succeed later; 0 means 3

	// Guard makes the calls of a Guarded service, from the first one on. It may be nil. Calls of
	// other services are made by the keyring's caller, who can guard them.
	Guard provider.Guard
}

// String returns the URL as errors and logs may show it.
func (k *Key) String() string { return provider.RedactURL(k.URL.String()) }

// Parse returns the key that a text names, of the services that a program takes, each with a scheme
// of its own. It makes no call and opens no file. If the text is not a URL, but the name of a key
// in other tools, the error says which URL to write. The error holds provider.ErrInvalidKey, and
// shows nothing that may be secret.
func Parse(text string, services ...Service) (*Key, error) {
	u, err := ParseURL(text, services...)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(services, func(service Service) bool { return service.Scheme == u.Scheme })
	if i < 0 {
		return nil, refuse("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, schemesOf(services))
	}
	k, err := services[i].Parse(u)
	if err != nil {
		return nil, textError{err}
	}
	k.Service, k.URL = services[i], u
	k.Files = slices.DeleteFunc(k.Files, func(path string) bool { return path == "" })
	return &k, nil
}

// schemesOf lists the schemes of services in order.
func schemesOf(services []Service) string {
	schemes := make([]string, len(services))
	for i, service := range services {
		schemes[i] = service.Scheme
	}
	slices.Sort(schemes)
	return strings.Join(schemes, ", ")
}
