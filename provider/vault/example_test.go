package vault_test

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/vault"
)

// This encrypts a file with a login by AppRole. It does not run here, since it asks a server.
func Example() {
	ctx := context.Background()
	key, err := vault.NewProvider(ctx, vault.Config{
		Address: "https://vault.example.com:8200", Namespace: "team", Mount: "transit", Key: "backups",
		AppRole: &vault.AppRole{RoleID: "8f1d…", SecretIDFile: "/run/secrets/secret-id"},
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

func ExampleParseURL() {
	u, err := url.Parse("vault://transit/backups?address=https://vault.example.com:8200&namespace=team")
	if err != nil {
		panic(err)
	}
	config, err := vault.ParseURL(u)
	if err != nil {
		panic(err)
	}
	fmt.Println(config.Key, "of", config.Mount, "in", config.Namespace)
	// Output: backups of transit in team
}
