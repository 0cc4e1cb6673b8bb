package branchkey_test

import (
	"testing"

	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	const endpoint = "https://user:SECRET@host.example"
	providertest.Conceals(t, branchkey.Config{
		Table: "keys", TableEndpoint: endpoint, Supplier: branchkey.ByPair("tenant"), KMS: awskms.Config{Endpoint: endpoint, GrantTokens: []string{"SECRET"}},
		Masters: []local.Config{{Key: []byte("SECRET")}},
	}, "SECRET", "keys")
}
