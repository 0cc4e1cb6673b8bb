package crypto_provider_aws_kms_test

import (
	"testing"

	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, crypto_provider_aws_kms.Config{KeyID: "alias/x", EndpointURL: "https://user:SECRET@kms.example"}, "SECRET", "alias/x")
}
