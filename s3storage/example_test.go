package s3storage_test

import (
	"context"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/s3storage"
)

// A host encrypts the objects of an S3 bucket under a key of AWS KMS.
func ExampleNew() {
	ctx := context.Background()
	account, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	provider, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Region: account.Region})
	if err != nil {
		log.Fatal(err)
	}
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("aws_kms", provider),
		pikokms.WithStorage(s3storage.New(s3.NewFromConfig(account), "uploads")),
	)
	if err != nil {
		log.Fatal(err)
	}
	file, err := os.Open("video.mp4")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	if err := host.Put(ctx, "video.mp4", file); err != nil {
		log.Fatal(err)
	}
}
