package vault

import "net/url"

// ParseURL is parseURL without the files.
func ParseURL(u *url.URL) (Config, error) {
	c, _, err := parseURL(u)
	return c, err
}
