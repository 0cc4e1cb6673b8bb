package gcpkms_test

import (
	"context"
	"fmt"
	"os"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/keyurl"
)

// This encrypts a file. It does not run here, since it asks Google for the key.
func Example() {
	ctx := context.Background()
	key, err := gcpkms.NewProvider(ctx, gcpkms.Config{
		ProjectID: "my-project", Location: "europe-west1", KeyRing: "my-ring", KeyName: "backups",
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
	key, err := keyurl.Parse("gcpkms://projects/my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/backups", gcpkms.KeyService)
	if err != nil {
		panic(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: gcpkms://projects/my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/backups
}
