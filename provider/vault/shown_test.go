package vault_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider/providertest"
	"piko.sh/pikokms/provider/vault"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, vault.Config{Key: "orders", Token: "hvs.SECRET"}, "hvs.SECRET", "orders")
	providertest.Conceals(t, vault.Config{Key: "orders", Address: "https://user:SECRET@vault.example"}, "SECRET", "vault.example")
	providertest.Conceals(t, vault.Config{Key: "orders", Login: appRole{"reader", "SECRET", "approle"}.login()}, "SECRET", "orders")
}

// What JSON shows of a configuration can be read again. It has neither the token nor the login.
func TestConfigInJSON(t *testing.T) {
	c := vault.Config{Key: "orders", Mount: "transit", MaxRetries: 2, Login: appRole{"reader", "SECRET", "approle"}.login()}
	text, err := json.Marshal(c)
	require.NoError(t, err)
	var again vault.Config
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, vault.Config{Key: "orders", Mount: "transit", MaxRetries: 2}, again)
}
