// Command bucket has an application that uses gocloud.dev/blob encrypt its S3 bucket under a KMS key: one line of it changes. Both
// services are LocalStack's, in a container that it starts and removes, so it needs Docker and no AWS account.
//
//	go run ./examples/bucket
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/internal/localstack"
	"piko.sh/pikokms/provider/awskms"
)

func main() {
	// The container is removed at the end of run, so no second one is needed for that. The names are those of AWS's SDK.
	for name, value := range map[string]string{
		"TESTCONTAINERS_RYUK_DISABLED": "true",
		"AWS_ACCESS_KEY_ID":            localstack.Credentials,
		"AWS_SECRET_ACCESS_KEY":        localstack.Credentials,
	} {
		os.Setenv(name, value)
	}
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bucket:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	container, err := localstack.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, container.Close()) }()
	provider, err := prepare(ctx, container.Endpoint)
	if err != nil {
		return err
	}

	// What the application had. Against AWS it is "s3://uploads?region=eu-west-1".
	stored, err := blob.OpenBucket(ctx, "s3://uploads?"+url.Values{
		"region": {localstack.Region}, "endpoint": {container.Endpoint}, "use_path_style": {"true"},
	}.Encode())
	if err != nil {
		return err
	}
	// The line that it gains.
	bucket, err := blobstorage.Encrypt(stored, pikokms.WithCryptoProvider("aws_kms", provider), pikokms.WithDefaultCryptoProvider("aws_kms"))
	if err != nil {
		return errors.Join(err, stored.Close())
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	return use(ctx, out, bucket, stored)
}

// prepare makes what an operator has: a KMS key with an alias, and a bucket.
func prepare(ctx context.Context, endpoint string) (*awskms.Provider, error) {
	login := credentials.NewStaticCredentialsProvider(localstack.Credentials, localstack.Credentials, "")
	keys := kms.New(kms.Options{Region: localstack.Region, BaseEndpoint: &endpoint, Credentials: login})
	key, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		return nil, err
	}
	if _, err := keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/uploads"), TargetKeyId: key.KeyMetadata.KeyId}); err != nil {
		return nil, err
	}
	client := s3.New(s3.Options{Region: localstack.Region, BaseEndpoint: &endpoint, Credentials: login, UsePathStyle: true})
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket:                    aws.String("uploads"),
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: localstack.Region},
	}); err != nil {
		return nil, err
	}
	return awskms.NewProvider(ctx, awskms.Config{KeyID: "alias/uploads", Client: keys})
}

// use is the application, which does not know.
func use(ctx context.Context, out io.Writer, bucket, stored *blob.Bucket) error {
	content := make([]byte, 8<<20)
	_, _ = rand.Read(content) // never fails
	if err := bucket.WriteAll(ctx, "large.bin", content, nil); err != nil {
		return err
	}
	attributes, err := bucket.Attributes(ctx, "large.bin")
	if err != nil {
		return err
	}
	inS3, err := stored.Attributes(ctx, "large.bin")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "large.bin: %d bytes, %d in S3\n", attributes.Size, inS3.Size)
	r, err := bucket.NewRangeReader(ctx, "large.bin", 5_000_000, 1000, nil)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, content[5_000_000:5_001_000]) {
		return errors.New("the range came back changed")
	}
	fmt.Fprintf(out, "  read back  %d bytes from its middle, the same\n", len(got))
	return nil
}
