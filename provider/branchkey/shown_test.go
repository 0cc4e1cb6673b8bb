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
	providertest.Conceals(t, branchkey.DynamoDBConfig{Table: "keys", Endpoint: endpoint}, "SECRET", "keys")
	providertest.Conceals(t, branchkey.URLConfig{
		Table: branchkey.DynamoDBConfig{Table: "keys", Endpoint: endpoint}, KMS: awskms.Config{Endpoint: endpoint, GrantTokens: []string{"SECRET"}},
		Masters: []local.Config{{Key: []byte("SECRET")}},
	}, "SECRET", "keys")
}
