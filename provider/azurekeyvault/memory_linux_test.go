package azurekeyvault_test

import (
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/leftover"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
)

// memoryVault is in the environment of the process whose memory is read, which is the test again:
// the URL of the vault and a key's name.
const memoryVault = "PIKOKMS_MEMORY_AZURE"

// use encrypts and decrypts, and reports the data keys.
func use(t *testing.T) {
	url, name, _ := strings.Cut(os.Getenv(memoryVault), " ")
	p, err := azurekeyvault.NewProvider(t.Context(), azurekeyvault.Config{Vault: azurekeyvaulttest.Vault, Key: name, Endpoint: url})
	require.NoError(t, err)
	keys := &leftover.Masking{EncryptionProvider: p}
	both := message.Encrypter{Keyring: keys, Recipients: []provider.Wrapper{keys}}
	for range 20 {
		sealed, err := both.Encrypt(t.Context(), []byte("text"), nil)
		require.NoError(t, err)
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
	}
	leftover.Use(t, keys, p)
}

// TestNoKeyStaysInMemory reads the whole memory of a process that has encrypted and decrypted, in
// search of data keys. Only the buffers of net/http have any, as base64 text: the last answers of
// the vault, and under an AES key the last requests to it.
func TestNoKeyStaysInMemory(t *testing.T) {
	if os.Getenv(memoryVault) != "" {
		use(t)
		return
	}
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	for _, kind := range []string{"RSA", "oct-HSM"} {
		t.Run(kind, func(t *testing.T) {
			server := azurekeyvaulttest.NewServer(t)
			process := leftover.Start(t, "TestNoKeyStaysInMemory", memoryVault+"="+server.URL+" "+server.CreateKey(azurekeyvaulttest.Key{Type: kind}))
			// The digest before the key has 48 bytes, so the key's text begins with its first byte.
			process.RequireTextOnly(t, func(key []byte) string { return base64.RawURLEncoding.EncodeToString(key)[:40] })
		})
	}
}
