package vault

import (
	"encoding/json"
	"fmt"

	"piko.sh/pikokms/provider"
)

// shownConfig is a Config as prints, logs and encodings show it.
type shownConfig Config

func (c Config) shown() shownConfig {
	if c.Address != "" {
		c.Address = provider.RedactURL(c.Address)
	}
	if c.Token != "" {
		c.Token = provider.Redacted
	}
	return shownConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }

// shownAppRole is an AppRole as prints, logs and encodings show it.
type shownAppRole AppRole

func (a AppRole) shown() shownAppRole {
	if a.SecretID != "" {
		a.SecretID = provider.Redacted
	}
	return shownAppRole(a)
}

// Format implements fmt.Formatter. It shows no secret.
func (a AppRole) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), a.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (a AppRole) MarshalJSON() ([]byte, error) { return json.Marshal(a.shown()) }
