package service_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// A Service stands between a provider and whoever uses it. Here, messages share data keys for a
// minute, and fail with ErrBreakerOpen at once while the key service is down.
func ExampleNew() {
	ctx := context.Background()
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)}) // or awskms.NewProvider
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	s := service.New(key, service.Config{Cache: &service.CacheLimits{MaxAge: time.Minute}})
	defer s.Close()

	e := message.Encrypter{Keyring: s}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{s}}
	stored, err := e.Encrypt(ctx, []byte("hello"), nil)
	if err != nil {
		log.Fatal(err)
	}
	plaintext, _, err := d.Decrypt(ctx, stored, nil)
	fmt.Println(string(plaintext), err)
	// Output: hello <nil>
}

// EncryptBatch encrypts records of a database under one data key, with one call of the key service.
func ExampleService_encryptBatch() {
	ctx := context.Background()
	key, err := local.NewProvider(local.Config{Key: make([]byte, 32)}) // or awskms.NewProvider
	if err != nil {
		log.Fatal(err)
	}
	defer key.Close()
	s := service.New(key, service.Config{Cache: &service.CacheLimits{}})
	defer s.Close()

	column := map[string]string{"column": "iban"} // bound to the values, and visible
	texts, err := s.EncryptBatch(ctx, []string{"DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19"}, column)
	if err != nil {
		log.Fatal(err)
	}
	ibans, err := s.DecryptBatch(ctx, texts, column, 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ibans[1], s.State())
	// Output: GB29 NWBK 6016 1331 9268 19 closed
}
