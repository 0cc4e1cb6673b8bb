package local_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// A key file is made once. With AWS KMS, the same program has awskms.NewProvider in place of
// local.NewProvider.
func Example() {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "dev.key")
	if err := local.Generate(file); err != nil { // or pikokms keygen
		log.Fatal(err)
	}

	ctx := context.Background()
	key, err := local.NewProvider(local.Config{KeyFile: file})
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	e := message.Encrypter{Keyring: key}
	stored, err := e.Encrypt(ctx, []byte("hello"), map[string]string{"tenant": "42"})
	if err != nil {
		log.Fatal(err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	plaintext, encryptionContext, err := d.Decrypt(ctx, stored, nil)
	fmt.Println(string(plaintext), encryptionContext, err)
	// Output: hello map[tenant:42] <nil>
}

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
