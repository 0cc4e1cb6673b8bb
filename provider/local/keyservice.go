package local

import (
	"context"
	"net/url"
	"os"
	"regexp"
	"strings"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

// KeyService opens the keys that URLs name, as ParseURL describes. Its Type is "local_aes_gcm" for
// keys of all kinds, since the file was not opened yet.
var KeyService = keyurl.Service{
	Scheme: scheme,
	Type:   "local_aes_gcm",
	Paths:  []string{"peer"},
	Meant:  meantFile,
	Parse: func(u *url.URL) (keyurl.Key, error) {
		c, err := ParseURL(u)
		return keyurl.Key{
			Files: []string{c.KeyFile, c.PeerFile},
			Local: true,
			Open:  func(context.Context, keyurl.Options) (provider.Unwrapper, error) { return NewProvider(c) },
		}, err
	},
}

var drive = regexp.MustCompile(`^[A-Za-z]:[\\/]`)

// meantFile returns the URL of a key file that is named by its path.
func meantFile(text string) string {
	isFile := func() bool { info, err := os.Stat(text); return err == nil && info.Mode().IsRegular() }
	switch {
	case drive.MatchString(text):
		return scheme + ":///" + (&url.URL{Path: strings.ReplaceAll(text, `\`, "/")}).EscapedPath()
	case strings.HasPrefix(text, "~/"), !strings.Contains(text, ":") && isFile():
		return scheme + ":" + (&url.URL{Path: text}).EscapedPath()
	}
	return ""
}
