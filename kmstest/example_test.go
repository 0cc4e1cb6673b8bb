package kmstest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// A test would call NewServer, which closes the server when the test ends.
func Example() {
	server := kmstest.New()
	defer server.Close()
	key := server.CreateKey(kmstest.Key{Alias: "alias/documents"})

	ctx := context.Background()
	client := kms.New(kms.Options{
		BaseEndpoint: aws.String(server.URL), Region: key.Region,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	p, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/documents", Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	host, err := pikokms.New(pikokms.WithCryptoProvider("kms", p))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	encrypted, err := host.Encrypt(ctx, "a secret", map[string]string{"tenant": "42"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(server.Calls("Encrypt"))

	// Somebody disables the key.
	server.SetState(key.ARN, "Disabled")
	_, err = host.Decrypt(ctx, encrypted, map[string]string{"tenant": "42"})
	fmt.Println(errors.Is(err, provider.ErrKeyDisabled))
	// Output:
	// 1
	// true
}

// KMS throttles two calls, answers a third time after a second, and then nothing is wrong any more.
func ExampleEndpoint_Inject() {
	server := kmstest.New()
	defer server.Close()
	server.Inject(kmstest.Fault{Operation: "Decrypt", Times: 2, Do: kmstest.Throttle()})
	server.Inject(kmstest.Fault{Operation: "Decrypt", After: 2, Times: 1, Do: kmstest.Delay(time.Second)})
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: kmstest.Answer(func(members map[string]any) {
		members["Plaintext"] = make([]byte, 16) // a data key of another size than was asked for
	})})
}
