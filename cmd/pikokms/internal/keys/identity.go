package keys

import (
	"net/url"
	"path/filepath"
)

// Identity returns the text of a KEY without what may change from one run of a job to the next.
func (k *Key) Identity() string {
	u, err := url.Parse(k.String())
	if err != nil {
		return k.String()
	}
	if u.Opaque != "" {
		if absolute, err := filepath.Abs(u.Opaque); err == nil {
			u.Opaque = absolute
		}
	}
	query := u.Query()
	query.Del("grant-tokens")
	query.Del("profile")
	u.RawQuery = query.Encode()
	return u.String()
}
