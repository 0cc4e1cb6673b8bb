package awskms_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/keyurl"
)

// A program encrypts and decrypts under a key of KMS. Credentials are found as by every AWS tool.
// It does not run here, since it asks AWS; package kmstest is a KMS for tests.
func Example() {
	ctx := context.Background()
	key, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Region: "eu-west-1"})
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	e := message.Encrypter{Keyring: key}
	stored, err := e.Encrypt(ctx, []byte("hello"), map[string]string{"tenant": "42"}) // seen in CloudTrail
	if err != nil {
		log.Fatal(err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	plaintext, _, err := d.Decrypt(ctx, stored, nil)
	switch {
	case errors.Is(err, provider.ErrKeyDisabled):
		log.Fatal("enable the key: ", err)
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(string(plaintext))
}

// A program takes its key from its configuration.
func Example_url() {
	key, err := keyurl.Parse("awskms://alias/uploads?region=eu-west-1", awskms.KeyService)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key) // key.Open opens it
	// Output: awskms://alias/uploads?region=eu-west-1
}

// The reader does not know under which key of its company's accounts an object is encrypted.
func ExampleNewDiscovery() {
	ctx := context.Background()
	keys, err := awskms.NewDiscovery(ctx, awskms.Config{Accounts: []string{"111122223333", "444455556666"}, Region: "eu-west-1"})
	if err != nil {
		log.Fatal(err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{keys}}
	plaintext, err := d.NewReader(ctx, os.Stdin, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, plaintext); err != nil {
		log.Fatal(err)
	}
}

// Objects that can be read in two Regions, even if one of them is down. A process can then start,
// too, since keys are checked when they are first needed.
func ExampleNewProvider_twoRegions() {
	ctx := context.Background()
	here, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Region: "eu-west-1", CheckLater: true})
	if err != nil {
		log.Fatal(err)
	}
	there, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Region: "eu-central-1", CheckLater: true})
	if err != nil {
		log.Fatal(err)
	}
	e := message.Encrypter{Keyring: here, Recipients: []provider.Wrapper{there}}
	stored, err := e.Encrypt(ctx, []byte("backup"), map[string]string{"purpose": "backup"})
	if err != nil {
		log.Fatal(err)
	}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{here, there}}
	plaintext, _, err := d.Decrypt(ctx, stored, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(plaintext); err != nil {
		log.Fatal(err)
	}
}

// A machine uploads under an RSA key of KMS and can't decrypt what it uploads. It has the public
// key, as "aws kms get-public-key" prints it, and needs neither credentials nor a connection to
// KMS.
func ExampleNewProvider_writeOnly() {
	ctx := context.Background()
	key, err := awskms.NewProvider(ctx, awskms.Config{
		KeyID:         "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
		PublicKeyFile: "uploads.pem",
	})
	if err != nil {
		log.Fatal(err)
	}
	e := message.Encrypter{Keyring: key}
	stored, err := e.NewReader(ctx, os.Stdin, nil)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, stored); err != nil {
		log.Fatal(err)
	}
}
