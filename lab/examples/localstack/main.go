// Command localstack stores objects through an encrypting host in S3, under a key of AWS KMS. Both
// services are LocalStack's, in a container that it starts and removes, so it needs Docker and no
// AWS account.
//
//	go run ./lab/examples/localstack
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/lab/localstack"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/s3storage"
)

func main() {
	// run removes the container at its end, so Ryuk, a second container that would do so, is not
	// needed.
	os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "localstack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	container, err := localstack.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, container.Close()) }()
	login := credentials.NewStaticCredentialsProvider(localstack.Credentials, localstack.Credentials, "")

	// An operator provides a KMS key with an alias, and a bucket.
	keys := kms.New(kms.Options{Region: localstack.Region, BaseEndpoint: &container.Endpoint, Credentials: login})
	key, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		return err
	}
	if _, err := keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/uploads"), TargetKeyId: key.KeyMetadata.KeyId}); err != nil {
		return err
	}
	client := s3.New(s3.Options{Region: localstack.Region, BaseEndpoint: &container.Endpoint, Credentials: login, UsePathStyle: true})
	const bucket = "uploads"
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket:                    aws.String(bucket),
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: localstack.Region},
	}); err != nil {
		return err
	}

	// The application connects the parts. Against AWS, this Config is enough: awskms.Config{KeyID:
	// "alias/uploads", Region: "eu-west-1"}.
	provider, err := awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Client: keys})
	if err != nil {
		return err
	}
	storage := s3storage.New(client, bucket)
	host, err := pikokms.New(
		pikokms.WithCryptoProvider("aws_kms", provider),
		pikokms.WithDefaultCryptoProvider("aws_kms"),
		pikokms.WithEnabledTransformers("zstd"),
		pikokms.WithStorage(storage),
	)
	if err != nil {
		return err
	}

	for name, content := range map[string][]byte{
		"small.txt": []byte("a small upload"),
		"large.bin": randomBytes(20 << 20), // several parts
	} {
		if err := host.Put(ctx, name, bytes.NewReader(content)); err != nil {
			return err
		}
		fmt.Fprintf(out, "s3://%s/%s\n", bucket, name)
		if err := show(ctx, out, storage, name, len(content)); err != nil {
			return err
		}
		download, err := host.Get(ctx, name)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(download)
		if err := errors.Join(err, download.Close()); err != nil {
			return err
		}
		if !bytes.Equal(got, content) {
			return fmt.Errorf("%s came back changed", name)
		}
		fmt.Fprintf(out, "  read back  %d bytes, the same\n", len(got))
	}
	return nil
}

// show prints what anyone with the bucket can see of an object.
func show(ctx context.Context, out io.Writer, storage pikokms.Storage, name string, size int) error {
	stored, err := storage.Get(ctx, name)
	if err != nil {
		return err
	}
	defer stored.Close()
	h, err := header.Read(stored, header.Limits{})
	if err != nil {
		return err
	}
	body, err := io.Copy(io.Discard, stored)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  stored     %d bytes for %d of plaintext\n", int64(h.Size())+body, size)
	fmt.Fprintf(out, "  suite      %v\n", h.Suite)
	fmt.Fprintf(out, "  context    %v\n", h.EncryptionContext)
	fmt.Fprintf(out, "  data key   wrapped under %s\n", message.KeyName(h.EncryptedDataKeys[0]))
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
