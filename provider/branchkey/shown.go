package branchkey

import (
	"encoding/json"
	"fmt"

	"piko.sh/pikokms/provider"
)

// shownDynamoDBConfig is a DynamoDBConfig as prints, logs and encodings show it.
type shownDynamoDBConfig DynamoDBConfig

func (c DynamoDBConfig) shown() shownDynamoDBConfig {
	if c.Endpoint != "" {
		c.Endpoint = provider.RedactURL(c.Endpoint)
	}
	return shownDynamoDBConfig(c)
}

// Format implements fmt.Formatter. It shows no secret.
func (c DynamoDBConfig) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), c.shown())
}

// MarshalJSON implements json.Marshaler. It shows no secret.
func (c DynamoDBConfig) MarshalJSON() ([]byte, error) { return json.Marshal(c.shown()) }

// shownURLConfig, whose fields conceal what is secret in them, is a URLConfig as prints show it.
type shownURLConfig URLConfig

// Format implements fmt.Formatter. It shows no secret, not even for a verb that package fmt finds
// wrong, for which it does not call the methods of fields.
func (c URLConfig) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprintf(f, fmt.FormatString(f, verb), shownURLConfig(c))
}
