package azurekeyvault

import (
	"encoding/json"
	"fmt"
	"time"

	"piko.sh/pikokms/provider"
)

// shownConfig is a Config as prints, logs and encodings show it, with the types of what may hold a
// secret.
type shownConfig struct {
	Vault, Key, Version string
	Credential          string
	MaxRetries          int
	Timeout             time.Duration
	CheckLater          bool
	Endpoint            string
	Transport           string
}

func (c Config) shown() shownConfig {
	s := shownConfig{Vault: c.Vault, Key: c.Key, Version: c.Version, MaxRetries: c.MaxRetries, Timeout: c.Timeout, CheckLater: c.CheckLater}
	if c.Endpoint != "" {
		s.Endpoint = provider.RedactURL(c.Endpoint)
	}
	if c.Credential != nil {
		s.Credential = fmt.Sprintf("%T", c.Credential)
	}
	if c.Transport != nil {
		s.Transport = fmt.Sprintf("%T", c.Transport)
	}
	return s
}

// Format implements fmt.Formatter. It shows no secret.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
