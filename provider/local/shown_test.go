package local_test

import (
	"testing"

	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, local.Config{Key: []byte("SECRET-SECRET-16"), Name: "backups"}, "SECRET-SECRET-16", "backups")
}
