package awskms

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"piko.sh/pikokms/provider"
)

// shownConfig is a Config as prints, logs and encodings show it.
type shownConfig Config

func (c Config) shown() shownConfig {
	if len(c.GrantTokens) > 0 {
		c.GrantTokens = []string{provider.Redacted}
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

// LogValue implements slog.LogValuer. It shows no secret.
func (c Config) LogValue() slog.Value { return slog.AnyValue(c.shown()) }

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c Config) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }

// shownDiscoveryConfig is a DiscoveryConfig as prints, logs and encodings show it.
type shownDiscoveryConfig DiscoveryConfig

func (c DiscoveryConfig) shown() shownDiscoveryConfig {
	if len(c.GrantTokens) > 0 {
		c.GrantTokens = []string{provider.Redacted}
	}
	if c.Endpoint != "" {
		c.Endpoint = provider.RedactURL(c.Endpoint)
	}
	return shownDiscoveryConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c DiscoveryConfig) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// LogValue implements slog.LogValuer. It shows no secret.
func (c DiscoveryConfig) LogValue() slog.Value { return slog.AnyValue(c.shown()) }

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c DiscoveryConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }

// shownWrapperConfig is a WrapperConfig as prints, logs and encodings show it.
type shownWrapperConfig WrapperConfig

func (c WrapperConfig) shown() shownWrapperConfig {
	if len(c.GrantTokens) > 0 {
		c.GrantTokens = []string{provider.Redacted}
	}
	if c.Endpoint != "" {
		c.Endpoint = provider.RedactURL(c.Endpoint)
	}
	return shownWrapperConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c WrapperConfig) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// LogValue implements slog.LogValuer. It shows no secret.
func (c WrapperConfig) LogValue() slog.Value { return slog.AnyValue(c.shown()) }

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c WrapperConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }
