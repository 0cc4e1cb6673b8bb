package crypto_provider_local_aes_gcm

import (
	"encoding/json"
	"fmt"
)

// shownConfig is a Config as prints, logs and encodings show it.
type shownConfig Config

func (c Config) shown() shownConfig {
	if c.Key != nil {
		c.Key = []byte{}
	}
	return shownConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c Config) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
