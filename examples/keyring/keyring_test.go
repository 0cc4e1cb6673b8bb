package keyring_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/examples/keyring"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/providertest"
)

// key makes a key of a new module, and returns what makes keyrings on it.
func key(t *testing.T, name string) func(*testing.T) provider.EncryptionProvider {
	module, err := keyring.NewModule()
	require.NoError(t, err)
	return func(*testing.T) provider.EncryptionProvider { return &keyring.Keyring{Module: module, Name: name} }
}

// One line tests what every keyring must do.
func TestConformance(t *testing.T) {
	providertest.Run(t, key(t, "backups"), key(t, "others"))
}

// Two modules may have keys of one name.
func TestConformanceWithOneName(t *testing.T) {
	providertest.Run(t, key(t, "backups"), key(t, "backups"))
}

func Example() {
	module, err := keyring.NewModule()
	if err != nil {
		panic(err)
	}
	k := &keyring.Keyring{Module: module, Name: "backups"}
	stored, err := (&message.Encrypter{Keyring: k}).Encrypt(context.Background(), []byte("hello"), nil)
	if err != nil {
		panic(err)
	}
	plain, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{k}}).Decrypt(context.Background(), stored, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(plain))
	// Output: hello
}
