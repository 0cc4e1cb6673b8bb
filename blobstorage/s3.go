package blobstorage

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	"gocloud.dev/blob"
)

// confirmWrites makes an upload to S3 fail unless S3's answer has the ETag of what it stored.
// Without an ETag, nobody knows whether there is an object: a proxy may have answered. It also
// leaves out checksums where the client's options say RequestChecksumCalculationWhenRequired, since
// gocloud.dev looks at its own options alone. In other clouds it changes nothing.
func confirmWrites(ctx context.Context, bucket *blob.Bucket, as func(any) bool) error {
	var client *s3.Client
	var upload *transfermanager.Client
	if !bucket.As(&client) || !as(&upload) {
		return nil
	}
	var options transfermanager.Options
	_, _ = upload.UploadObject(ctx, &transfermanager.UploadObjectInput{Body: strings.NewReader("")}, func(o *transfermanager.Options) {
		options = *o
		o.S3 = noRequests{}
	})
	if options.S3 == nil {
		return errors.New("blobstorage: the transfer manager did not give its options")
	}
	options.S3 = confirming{options.S3}
	if client.Options().RequestChecksumCalculation == aws.RequestChecksumCalculationWhenRequired {
		options.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
	}
	*upload = *transfermanager.New(options.S3, func(o *transfermanager.Options) { *o = options })
	return nil
}

// noRequests is a client that sends nothing. A transfer manager keeps its options private, and
// passes them to an option of an upload. So confirmWrites begins an upload with this client.
type noRequests struct{ transfermanager.S3APIClient }

func (noRequests) PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	return nil, errors.New("not sent")
}

// confirming refuses answers to uploads that have no ETag.
type confirming struct{ transfermanager.S3APIClient }

func (c confirming) PutObject(ctx context.Context, in *s3.PutObjectInput, options ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	out, err := c.S3APIClient.PutObject(ctx, in, options...)
	if err == nil && aws.ToString(out.ETag) == "" {
		return nil, errUnconfirmed
	}
	return out, err
}

func (c confirming) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, options ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	out, err := c.S3APIClient.CompleteMultipartUpload(ctx, in, options...)
	if err == nil && aws.ToString(out.ETag) == "" {
		return nil, errUnconfirmed
	}
	return out, err
}

var errUnconfirmed = fmt.Errorf("%w: no ETag follows the upload, so whether the object is stored is unknown", ErrAnswer)

// s3Listing describes the requests of a listing of S3. It is zero for other clouds.
type s3Listing struct {
	isS3    bool
	prefix  string
	ordered bool // S3 sorts names by their bytes, except in directory buckets
	tokens  map[string]bool
}

// record records a request for a page of a listing, and makes the request fail if the page is cut
// short.
func (l *s3Listing) record(as func(any) bool) error {
	var old *s3.ListObjectsInput
	if as(&old) {
		*l = s3Listing{isS3: true, prefix: aws.ToString(old.Prefix), ordered: true, tokens: l.tokens}
		return l.checkToken(old.Marker)
	}
	var in *s3.ListObjectsV2Input
	if !as(&in) {
		return nil
	}
	*l = s3Listing{isS3: true, prefix: aws.ToString(in.Prefix), ordered: !strings.HasSuffix(aws.ToString(in.Bucket), "--x-s3"), tokens: l.tokens}
	var options *[]func(*s3.Options)
	if as(&options) {
		*options = append(*options, func(o *s3.Options) { o.APIOptions = append(o.APIOptions, refuseCut) })
	}
	return l.checkToken(in.ContinuationToken)
}

// checkToken returns an error if a token was sent before, since such a listing would never end. A
// page may take several requests.
func (l *s3Listing) checkToken(token *string) error {
	if l.tokens[aws.ToString(token)] {
		return errSameToken
	}
	if l.tokens == nil {
		l.tokens = make(map[string]bool)
	}
	l.tokens[aws.ToString(token)] = true
	return nil
}

// refuseCut makes a request fail if its page is not the last and has no token for the next one.
// gocloud.dev would take such a page for the last.
func refuseCut(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("pikokms.RefuseCut",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleInitialize(ctx, in)
			if page, ok := out.Result.(*s3.ListObjectsV2Output); ok && err == nil && aws.ToBool(page.IsTruncated) && aws.ToString(page.NextContinuationToken) == "" {
				err = fmt.Errorf("%w: a part of a listing says that there is more, and has no token for it", ErrAnswer)
			}
			return out, metadata, err
		}), middleware.Before)
}
