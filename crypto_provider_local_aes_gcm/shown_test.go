package crypto_provider_local_aes_gcm_test

import (
	"testing"

	"piko.sh/piko/wdk/crypto/pikokms/crypto_provider_local_aes_gcm"
	"piko.sh/pikokms/provider/providertest"
)

// TestConfigsShowNoSecret prints, logs and encodes configurations.
func TestConfigsShowNoSecret(t *testing.T) {
	providertest.Conceals(t, crypto_provider_local_aes_gcm.Config{KeyID: "backups", Key: []byte("SECRET-SECRET-16")}, "SECRET-SECRET-16", "backups")
}
