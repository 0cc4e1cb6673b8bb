package keyurl_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/local"
)

// A program takes its key from its configuration.
func ExampleParse() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "dev.key")
	if err := local.Generate(file); err != nil {
		panic(err)
	}

	key, err := keyurl.Parse("local:"+filepath.ToSlash(file), local.KeyService)
	if err != nil {
		panic(err)
	}
	keyring, err := key.Open(context.Background(), keyurl.Options{})
	if err != nil {
		panic(err)
	}
	dataKey, err := keyring.(provider.Wrapper).GenerateDataKey(context.Background(), nil)
	if err != nil {
		panic(err)
	}
	defer dataKey.Close()
	fmt.Println(dataKey.KeyID)

	_, err = keyurl.Parse("azurekeyvault://vault/key", local.KeyService)
	fmt.Println(err)
	// Output:
	// local
	// "azurekeyvault://vault/key" has the unknown scheme "azurekeyvault"; known are local
}
