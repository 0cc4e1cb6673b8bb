// Command piko is the bootstrap of a Piko application whose storage is encrypted under AWS KMS. It
// compiles here against declarations of Piko's API, and runs with Piko's own module. Its argument
// is the run mode: prod, dev or dev-i.
package main

import (
	"context"
	"log"
	"os"

	"piko.sh/piko"
	"piko.sh/piko/wdk/crypto/crypto_provider_aws_kms"
	"piko.sh/piko/wdk/storage/storage_provider_disk"
	"piko.sh/pikokms/pikostorage"
)

func main() {
	kms, err := crypto_provider_aws_kms.NewProvider(context.Background(), crypto_provider_aws_kms.Config{
		KeyID: os.Getenv("KMS_KEY_ID"), Region: os.Getenv("AWS_REGION"),
	})
	if err != nil {
		log.Fatal(err)
	}
	disk, err := storage_provider_disk.NewDiskProvider(storage_provider_disk.Config{BaseDirectory: "uploads"})
	if err != nil {
		log.Fatal(err)
	}

	ssr := piko.New(
		piko.WithCryptoProvider("kms", kms), // strings
		piko.WithDefaultCryptoProvider("kms"),
		piko.WithStorageProvider("default", disk),
		piko.WithActionMaxBodyBytes(64<<20),    // of an upload to an action
		piko.WithMaxMultipartFormBytes(64<<20), // at least as much, so that no upload is laid on disk in plain
		pikostorage.EncryptAll(kms),            // everything that the application stores; last
	)
	mode := piko.RunModeProd
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	if err := ssr.Run(mode); err != nil {
		log.Fatal(err)
	}
}
