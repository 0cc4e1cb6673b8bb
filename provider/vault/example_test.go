package vault_test

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/vault"
)

// This encrypts a file with a login by AppRole. It does not run here, since it asks a server.
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
	key, err := keyurl.Parse("vault://transit/backups?address=https://vault.example.com:8200&namespace=team", vault.KeyService)
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: vault://transit/backups?address=https://vault.example.com:8200&namespace=team
}
