package azurekeyvault_test

import (
	"context"
	"fmt"
	"os"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/keyurl"
)

// This encrypts a file with the credentials of az login or of the machine. It does not run here,
// since it asks Azure for the key.
func Example() {
	ctx := context.Background()
	key, err := azurekeyvault.NewProvider(ctx, azurekeyvault.Config{Vault: "my-vault", Key: "backups"})
	if err != nil {
		panic(err)
	}
	defer key.Close()
	w, err := (&message.Encrypter{Keyring: key}).NewWriter(ctx, os.Stdout, map[string]string{"tenant": "42"})
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(w, "hello")
	if err := w.Close(); err != nil {
		panic(err)
	}
}

// A program takes its key from its configuration.
func Example_url() {
	key, err := keyurl.Parse("azurekeyvault://my-hsm.managedhsm.azure.net/backups", azurekeyvault.KeyService)
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: azurekeyvault://my-hsm.managedhsm.azure.net/backups
}
