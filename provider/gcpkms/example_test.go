package gcpkms_test

import (
	"context"
	"fmt"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/keyurl"
)

// A program encrypts and decrypts under a key of Cloud KMS. It does not run here, since it asks
// Google for the key.
func Example() {
	ctx := context.Background()
	key, err := gcpkms.NewProvider(ctx, gcpkms.Config{
		ProjectID: "my-project", Location: "europe-west1", KeyRing: "my-ring", KeyName: "backups",
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
	key, err := keyurl.Parse("gcpkms://projects/my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/backups", gcpkms.KeyService)
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: gcpkms://projects/my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/backups
}
