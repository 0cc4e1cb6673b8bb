package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/backend/s3proxy"

	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/provider"
)

// openBackend opens the folder or the S3 behind the gateway. The bucket is empty if the gateway
// serves all.
func openBackend(ctx context.Context, c *config) (_ backend.Backend, bucket string, err error) {
	if c.folder == "" {
		b, bucket, err := openUpstream(ctx, c.upstream)
		if err != nil {
			return nil, "", fmt.Errorf("--upstream: %w", err)
		}
		return b, bucket, nil
	}
	folder, err := filepath.Abs(c.folder)
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	if err == nil {
		err = meta.XattrMeta{}.Test(folder)
	}
	if err != nil {
		return nil, "", fmt.Errorf("--folder: %w", err)
	}
	b, err := posix.New(folder, meta.XattrMeta{}, encrypted.FolderOptions())
	if err != nil {
		return nil, "", fmt.Errorf("--folder: %w", err)
	}
	return b, "", nil
}

// upstreamParameters are the parameters of the URL of the S3 behind.
var upstreamParameters = []string{"endpoint", "profile", "region"}

func openUpstream(ctx context.Context, text string) (_ backend.Backend, bucket string, err error) {
	u, err := provider.ParseURL(text)
	if err != nil {
		return nil, "", err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, "", err
	}
	for name := range query {
		if !slices.Contains(upstreamParameters, name) {
			return nil, "", fmt.Errorf("s3:// has no parameter %q; known are %s", name, strings.Join(upstreamParameters, ", "))
		}
	}
	if u.Scheme != "s3" || strings.Trim(u.Path, "/") != "" {
		return nil, "", fmt.Errorf("%q; write s3://BUCKET?region=REGION, or s3://?region=REGION for all buckets", provider.RedactURL(text))
	}
	options := []func(*awsconfig.LoadOptions) error{awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 256, 256
	}))}
	if region := query.Get("region"); region != "" {
		options = append(options, awsconfig.WithRegion(region))
	}
	if profile := query.Get("profile"); profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(profile))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, "", err
	}
	if loaded.Region == "" {
		return nil, "", fmt.Errorf("%q names no region; add ?region=REGION", provider.RedactURL(text))
	}
	client := s3.NewFromConfig(loaded, func(o *s3.Options) {
		if endpoint := query.Get("endpoint"); endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &endpoint, true
		}
		// The content of a request is a stream, which can be sent only once, and a frame's tag verifies
		// more than a checksum would.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.Retryer = aws.NopRetryer{}
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	})
	if u.Host != "" {
		if _, err := client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &u.Host}); err != nil {
			return nil, "", err
		}
	}
	b, err := s3proxy.NewWithClient(ctx, client, "")
	return b, u.Host, err
}
