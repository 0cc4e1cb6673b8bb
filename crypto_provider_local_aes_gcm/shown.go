package crypto_provider_local_aes_gcm

import "fmt"

// shownConfig is a Config as prints and logs show it. Its JSON leaves out the Key.
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
