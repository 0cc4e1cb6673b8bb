package gcpkms_test

import (
	"testing"

	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, gcpkms.Config{KeyName: "orders", Endpoint: "https://user:SECRET@kms.example"}, "SECRET", "orders")
}
