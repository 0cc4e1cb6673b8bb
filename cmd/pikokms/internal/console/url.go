package console

import (
	"errors"
	"net/url"
	"strings"
)

// ParseURL parses a URL. The error shows nothing of it.
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
