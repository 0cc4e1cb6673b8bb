package encrypted

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// UploadPart stores a part of an upload as a message of its own.
func (b *Backend) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	out, err := b.uploadPart(ctx, in)
	return out, b.fail(ctx, "upload part", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) uploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	r, k, err := b.record(ctx, in.Bucket, in.Key, in.UploadId)
	if err != nil {
		return nil, err
	}
	stated := takeChecksum(in)
	if trailing, ok := in.Body.(middlewares.ChecksumReader); ok && trailing.Algorithm() != "" {
		stated.Algorithm = types.ChecksumAlgorithm(strings.ToUpper(trailing.Algorithm()))
	}
	isStated := stated.Algorithm != "" // the answer has it
	switch {
	case !isStated && r.Type == types.ChecksumTypeComposite:
		return nil, s3err.GetChecksumTypeMismatchErr(r.Algorithm, "null")
	case isStated && r.Type != "" && stated.Algorithm != r.Algorithm:
		return nil, s3err.GetChecksumTypeMismatchErr(r.Algorithm, stated.Algorithm)
	case !isStated:
		stated.Algorithm = r.Algorithm
	}
	part, err := b.storePart(ctx, r, k, *in.PartNumber, in.Body, aws.ToInt64(in.ContentLength), stated)
	if err != nil {
		return nil, err
	}
	out := &s3.UploadPartOutput{ETag: part.tag()}
	if isStated || r.Type != "" {
		part.checksum.put(out)
	}
	return out, nil
}

// storePart stores the content of a part, and then the empty object that describes it.
func (b *Backend) storePart(ctx context.Context, r *record, k *Key, number int32, source io.Reader, size int64, stated checksum) (*donePart, error) {
	body, err := b.newContent(source, size, stated)
	if err != nil {
		return nil, err
	}
	part := &donePart{number: number, try: newTry(), size: size}
	crc64 := func() string { return body.sum.Value }
	if body.sum.Algorithm != types.ChecksumAlgorithmCrc64nvme {
		body.source, crc64, err = newHashReader(body.source, checksum{Algorithm: types.ChecksumAlgorithmCrc64nvme})
		if err != nil {
			return nil, err
		}
	}
	name := partName(r.ID, number, part.try)
	stored, err := b.store(ctx, k, name, s3response.PutObjectInput{Bucket: &r.Bucket, Key: &name}, body, size)
	if err != nil {
		return nil, err
	}
	part.messageID, part.crc64, part.checksum = stored.header.MessageID, crc64(), *body.sum
	done, err := r.doneName(part)
	if err != nil {
		return nil, err
	}
	empty := int64(0)
	_, err = b.inner.PutObject(ctx, s3response.PutObjectInput{Bucket: &r.Bucket, Key: &done, Body: strings.NewReader(""), ContentLength: &empty})
	return part, err
}

// UploadPartCopy stores a part that is copied from an object.
func (b *Backend) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	out, err := b.uploadPartCopy(ctx, in)
	return out, b.fail(ctx, "copy part", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) uploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (out s3response.CopyPartResult, err error) {
	r, k, err := b.record(ctx, in.Bucket, in.Key, in.UploadId)
	if err != nil {
		return out, err
	}
	from, err := b.copySource(ctx, *in.CopySource, in.ExpectedSourceBucketOwner, conditions{in.CopySourceIfMatch, in.CopySourceIfNoneMatch, in.CopySourceIfModifiedSince, in.CopySourceIfUnmodifiedSince})
	if err != nil {
		return out, err
	}
	body, size, err := b.copyContent(ctx, from, aws.ToString(in.CopySourceRange))
	if err != nil {
		return out, err
	}
	defer body.Close()
	part, err := b.storePart(ctx, r, k, *in.PartNumber, body, size, checksum{Algorithm: r.Algorithm})
	if err != nil {
		return out, err
	}
	out = s3response.CopyPartResult{ETag: part.tag(), LastModified: time.Now().UTC(), CopySourceVersionId: from.version}
	if r.Type != "" {
		part.checksum.put(&out)
	}
	return out, nil
}
