package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	_ "gocloud.dev/blob/s3blob"

	"piko.sh/pikokms/lab/localstack"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// inS3 runs the application with a bucket in S3 and a key in AWS KMS.
func inS3(ctx context.Context, out io.Writer) (err error) {
	// The first variable turns Ryuk off, a second container that would remove the first one: this
	// program does so itself. The other variables are those of AWS's SDK.
	for name, value := range map[string]string{
		"TESTCONTAINERS_RYUK_DISABLED": "true",
		"AWS_ACCESS_KEY_ID":            localstack.Credentials,
		"AWS_SECRET_ACCESS_KEY":        localstack.Credentials,
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	container, err := localstack.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, container.Close()) }()
	name := "uploads-" + strings.ToLower(rand.Text())
	key, err := prepare(ctx, container.Endpoint, name)
	if err != nil {
		return err
	}
	return application(ctx, out, "s3://"+name+"?"+url.Values{
		"region": {localstack.Region}, "endpoint": {container.Endpoint}, "use_path_style": {"true"},
	}.Encode(), key)
}

// prepare makes what an operator would provide: a KMS key with an alias, and a bucket.
func prepare(ctx context.Context, endpoint, name string) (provider.Provider, error) {
	login := credentials.NewStaticCredentialsProvider(localstack.Credentials, localstack.Credentials, "")
	keys := kms.New(kms.Options{Region: localstack.Region, BaseEndpoint: &endpoint, Credentials: login})
	key, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
	if err != nil {
		return nil, err
	}
	alias := "alias/" + name
	if _, err := keys.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(alias), TargetKeyId: key.KeyMetadata.KeyId}); err != nil {
		return nil, err
	}
	client := s3.New(s3.Options{Region: localstack.Region, BaseEndpoint: &endpoint, Credentials: login, UsePathStyle: true})
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket:                    aws.String(name),
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: localstack.Region},
	}); err != nil {
		return nil, err
	}
	return awskms.NewProvider(ctx, awskms.Config{KeyID: alias, Client: keys})
}
