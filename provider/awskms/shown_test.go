package awskms_test

import (
	"testing"

	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	const endpoint = "https://user:SECRET@kms.example"
	providertest.Conceals(t, awskms.Config{KeyID: "alias/x", GrantTokens: []string{"SECRET"}, Endpoint: endpoint}, "SECRET", "alias/x")
}
