package vault

import (
	"encoding/json"
	"fmt"
	"time"

	"piko.sh/pikokms/provider"
)

// shownConfig is a Config as prints, logs and encodings show it.
type shownConfig struct {
	Address, Namespace, Mount, Key string
	Token                          string
	Login                          bool
	MaxRetries                     int
	Timeout                        time.Duration
	CheckLater                     bool
}

func (c Config) shown() shownConfig {
	s := shownConfig{
		Namespace: c.Namespace, Mount: c.Mount, Key: c.Key,
		Login: c.Login != nil, MaxRetries: c.MaxRetries, Timeout: c.Timeout, CheckLater: c.CheckLater,
	}
	if c.Address != "" {
		s.Address = provider.RedactURL(c.Address)
	}
	if c.Token != "" {
		s.Token = "[redacted]"
	}
	return s
}

// Format implements fmt.Formatter. It shows no secret.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
