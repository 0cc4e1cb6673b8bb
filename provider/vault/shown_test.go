package vault_test

import (
	"testing"

	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, vault.Config{Key: "orders", Token: "hvs.SECRET"}, "hvs.SECRET", "orders")
	providertest.Conceals(t, vault.Config{Key: "orders", Address: "https://user:SECRET@vault.example"}, "SECRET", "vault.example")
	providertest.Conceals(t, vault.Config{Key: "orders", Login: appRole{"reader", "SECRET", "approle"}.login()}, "SECRET", "orders")
}
