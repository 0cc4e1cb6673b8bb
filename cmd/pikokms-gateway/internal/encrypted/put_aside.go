package encrypted

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/uuid"
	"github.com/versity/versitygw/s3response"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/transfer"
)

// The size of the parts in which the S3 behind copies what was put aside, in bytes, and how many of
// them it copies at a time.
const (
	copiedPart    = 64 << 20
	copiedAtATime = 16
)

// putAside stores an object whose metadata finish completes once its content has ended. S3 takes
// metadata before content. So the content is put aside, among the uploads, and the S3 behind copies
// it to the object, which is never seen without its metadata. What a gateway has put aside when it
// is killed is swept later.
func (b *Backend) putAside(ctx context.Context, in s3response.PutObjectInput, length int64, finish func() error) (out s3response.PutObjectOutput, err error) {
	aside := folderOf(uuid.NewString()) + "whole"
	put, err := b.inner.PutObject(ctx, s3response.PutObjectInput{Bucket: in.Bucket, Key: &aside, Body: in.Body, ContentLength: in.ContentLength})
	defer func() { // also if the answer was lost
		_, failed := b.inner.DeleteObject(context.WithoutCancel(ctx), &s3.DeleteObjectInput{Bucket: in.Bucket, Key: &aside})
		if failed != nil && !isMissing(failed) {
			b.config.Logger.WarnContext(ctx, "what was put aside is left", "bucket", *in.Bucket, "key", aside, "error", failed)
		}
	}()
	if err != nil {
		return out, err
	}
	if err := finish(); err != nil {
		return out, err
	}
	return b.putMultipart(ctx, in, func(id *string) ([]types.CompletedPart, error) {
		return b.copyParts(ctx, in, id, aside, bare(&put.ETag), length)
	})
}

// copyParts makes the S3 behind copy what was put aside, in parts.
func (b *Backend) copyParts(ctx context.Context, in s3response.PutObjectInput, id *string, aside string, tag *string, length int64) ([]types.CompletedPart, error) {
	size := max(int64(transfer.PartSize(length)), copiedPart)
	parts := make([]types.CompletedPart, (length+size-1)/size)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(copiedAtATime)
	for i := range parts {
		number, start := int32(i+1), int64(i)*size
		request := &s3.UploadPartCopyInput{
			Bucket: in.Bucket, Key: in.Key, UploadId: id, PartNumber: &number,
			CopySource: aws.String(*in.Bucket + "/" + aside), CopySourceIfMatch: tag, CopySourceRange: aws.String(""),
		}
		if len(parts) > 1 {
			request.CopySourceRange = byteRange(start, min(size, length-start))
		}
		group.Go(func() error {
			return b.catchPanic("copy a part", func() error {
				copied, err := b.inner.UploadPartCopy(ctx, request)
				parts[i] = types.CompletedPart{ETag: copied.ETag, PartNumber: &number}
				return err
			})
		})
	}
	return parts, group.Wait()
}
