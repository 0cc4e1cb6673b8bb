package azurekeyvaulttest_test

import (
	"context"
	"testing"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
)

// A test of an application that encrypts, while the vault gets too many requests.
func Example() {
	_ = func(t *testing.T) {
		server := azurekeyvaulttest.NewServer(t)
		server.CreateKey(azurekeyvaulttest.Key{Name: "backups"})
		key, err := azurekeyvault.NewProvider(context.Background(), azurekeyvault.Config{
			Vault: azurekeyvaulttest.Vault, Key: "backups", Endpoint: server.URL,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer key.Close()
		defer server.Inject(kmstest.Fault{Operation: "UnwrapKey", Do: azurekeyvaulttest.Throttle(1)})()
		// … what the application does with key
	}
}
