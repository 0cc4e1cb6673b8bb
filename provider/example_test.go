package provider_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// An error shows what a program can do about it.
func Example_errors() {
	ctx := context.Background()
	key := exampleKey("mine")
	defer key.Close()
	stored, err := (&message.Encrypter{Keyring: exampleKey("somebody's")}).Encrypt(ctx, []byte("hello"), nil)
	if err != nil {
		log.Fatal(err)
	}

	_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{key}}).Decrypt(ctx, stored, nil)
	switch {
	case errors.Is(err, provider.ErrProviderUnavailable):
		fmt.Println("try again in some seconds")
	case errors.Is(err, provider.ErrAccessDenied):
		fmt.Println("ask for rights")
	case errors.Is(err, provider.ErrUntrustedKey):
		fmt.Println("not for this key")
	}
	fmt.Println(provider.Sentinel(err)) // the one that an error holds
	// Output:
	// not for this key
	// message is encrypted under no key of this provider
}

// Check shows when a program starts whether it can use its key.
func ExampleCheck() {
	key := exampleKey("mine")
	fmt.Println(provider.Check(context.Background(), key))
	key.Close()
	fmt.Println(errors.Is(provider.Check(context.Background(), key), provider.ErrClosed))
	// Output:
	// <nil>
	// true
}

// A type assertion shows whether a provider can do more than wrap and unwrap data keys. Here it is
// whether its key service has other keys.
func ExampleKeySelector() {
	ctx := context.Background()
	server, key := exampleKMS() // of package kmstest
	defer server.Close()
	other := server.CreateKey(kmstest.Key{Alias: "alias/tenant-42"})

	for _, p := range []provider.Provider{exampleKey("mine"), key} {
		selector, ok := p.(provider.KeySelector)
		if !ok {
			fmt.Println(p.Type(), "has one key")
			continue
		}
		tenant := selector.Under(other.ARN)
		stored, err := (&message.Encrypter{Keyring: tenant}).Encrypt(ctx, []byte("hello"), nil)
		fmt.Println(p.Type(), "has encrypted under another key:", len(stored) > 0, err)
	}
	// Output:
	// local_aes_gcm has one key
	// aws_kms has encrypted under another key: true <nil>
}

// A Trace counts the requests of a call, of which there are several if it is tried again.
func ExampleWithTrace() {
	server, key := exampleKMS() // of package kmstest
	defer server.Close()
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Times: 1, Do: kmstest.Throttle()})

	var n requests
	ctx := provider.WithTrace(context.Background(), &n)
	if _, err := (&message.Encrypter{Keyring: key}).Encrypt(ctx, []byte("hello"), nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println(n.made.Load(), "requests,", n.failed.Load(), "of them failed")
	// Output: 2 requests, 1 of them failed
}

type requests struct{ made, failed atomic.Int64 }

func (n *requests) Request()     { n.made.Add(1) }
func (n *requests) Failed(error) { n.failed.Add(1) }

func exampleKey(name string) provider.Provider {
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32), Name: name})
	if err != nil {
		log.Fatal(err)
	}
	return key
}

// exampleKMS returns a KMS in the process, and a provider on a key of it.
func exampleKMS() (*kmstest.Server, provider.Provider) {
	server := kmstest.New()
	key := server.CreateKey(kmstest.Key{})
	client := kms.New(kms.Options{
		BaseEndpoint: aws.String(server.URL), Region: key.Region,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	p, err := awskms.NewProvider(context.Background(), awskms.Config{KeyID: key.ARN, Client: client})
	if err != nil {
		log.Fatal(err)
	}
	return server, p
}
