package azurekeyvault_test

import (
	"context"
	"fmt"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/keyurl"
)

// A program encrypts and decrypts with the credentials of az login or of the machine. It does not
// run here, since it asks Azure for the key.
func Example() {
	ctx := context.Background()
	key, err := azurekeyvault.NewProvider(ctx, azurekeyvault.Config{Vault: "my-vault", Key: "backups"})
	if err != nil {
		panic(err)
	}
	defer key.Close()
	e := message.Encrypter{Keyring: key}
	stored, err := e.Encrypt(ctx, []byte("hello"), map[string]string{"tenant": "42"})
	if err != nil {
		panic(err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	plaintext, _, err := d.Decrypt(ctx, stored, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(plaintext))
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
