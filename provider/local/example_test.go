package local_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// A machine that has only the public key can upload, and can't decrypt what it uploads.
func ExampleNewProvider_writeOnly() {
	ctx := context.Background()
	public, err := local.NewProvider(local.Config{Key: publicPEM(rsaPair()), Name: "uploads"}) // or KeyFile
	if err != nil {
		log.Fatal(err)
	}
	stored, err := (&message.Encrypter{Keyring: public}).Encrypt(ctx, []byte("payroll"), nil)
	if err != nil {
		log.Fatal(err)
	}
	_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{public}}).Decrypt(ctx, stored, nil)
	fmt.Println(errors.Is(err, provider.ErrKeyUsage))

	private, err := local.NewProvider(local.Config{Key: privatePEM(rsaPair()), Name: "uploads"})
	if err != nil {
		log.Fatal(err)
	}
	plaintext, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{private}}).Decrypt(ctx, stored, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(plaintext))
	// Output:
	// true
	// payroll
}
