package vault_test

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/vault"
)

// A program encrypts and decrypts with a login by AppRole. It does not run here, since it asks a
// server.
func Example() {
	ctx := context.Background()
	key, err := vault.NewProvider(ctx, vault.Config{
		Address: "https://vault.example.com:8200", Namespace: "team", Mount: "transit", Key: "backups",
		Login: func() (api.AuthMethod, error) {
			return approle.NewAppRoleAuth("8f1d…", &approle.SecretID{FromFile: "/run/secrets/secret-id"})
		},
	})
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
	key, err := keyurl.Parse("vault://transit/backups?address=https://vault.example.com:8200&namespace=team", vault.KeyService)
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: vault://transit/backups?address=https://vault.example.com:8200&namespace=team
}
