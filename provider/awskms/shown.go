package awskms

import (
	"encoding/json"
	"fmt"

	"piko.sh/pikokms/provider"
)

// shownConfig is a Config as prints, logs and encodings show it.
type shownConfig Config

func (c Config) shown() shownConfig {
	if len(c.GrantTokens) > 0 {
		c.GrantTokens = []string{"[redacted]"}
	}
	if c.Endpoint != "" {
		c.Endpoint = provider.RedactURL(c.Endpoint)
	}
	return shownConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
