package keys

import (
	"net/url"
	"path/filepath"

	"piko.sh/pikokms/provider/local"
)

// Identity returns the text of a KEY without what may change from one run to the next.
func (k *Key) Identity() string {
	u, err := url.Parse(k.Text)
	if err != nil {
		return k.Text
	}
	if u.Scheme == local.Scheme && u.Opaque != "" {
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
