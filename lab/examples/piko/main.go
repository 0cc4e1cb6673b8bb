// Command piko is the bootstrap of a Piko application whose storage is encrypted under AWS KMS. It
// compiles here against declarations of Piko's API, and runs with Piko's own module.
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
	system, err := storage_provider_disk.NewDiskProvider(storage_provider_disk.Config{BaseDirectory: "assets"})
	if err != nil {
		log.Fatal(err)
	}

	ssr := piko.New(
		piko.WithCryptoProvider("kms", kms), // strings
		piko.WithDefaultCryptoProvider("kms"),
		piko.WithStorageProvider("default", pikostorage.Encrypt(disk, kms)), // everything that the application stores
		piko.WithSystemStorageProvider(system),                              // Piko's own assets, without calls of KMS
	)
	if err := ssr.Run(piko.RunModeProd); err != nil {
		log.Fatal(err)
	}
}
