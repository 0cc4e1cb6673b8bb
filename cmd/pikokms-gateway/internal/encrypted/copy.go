package encrypted

import (
	"context"
	"io"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// maxCopy is the size of the largest object that one request copies (Amazon S3 API Reference,
// "CopyObject").
const maxCopy = 5 << 30

// conditions are those that a request for a copy states for its source.
type conditions struct {
	match, noneMatch               *string
	modifiedSince, unmodifiedSince *time.Time
}

// copiedObject is the object that is copied.
type copiedObject struct {
	bucket, key, version string
	head                 *s3.HeadObjectOutput // as clients see it
}

// copySource returns the object that a request copies, if its conditions hold.
func (b *Backend) copySource(ctx context.Context, text string, owner *string, c conditions) (*copiedObject, error) {
	bucket, key, version, err := backend.ParseCopySource(text)
	if err != nil {
		return nil, err
	}
	if aws.ToString(owner) != "" {
		data, err := b.inner.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &bucket})
		if err != nil {
			return nil, err
		}
		acl, err := auth.ParseACL(data)
		if err != nil {
			return nil, err
		}
		if acl.Owner != *owner {
			return nil, s3err.GetAPIError(s3err.ErrAccessDenied)
		}
	}
	in := &s3.HeadObjectInput{Bucket: &bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled}
	if version != "" {
		in.VersionId = &version
	}
	head, err := b.headObject(ctx, in)
	if err != nil {
		return nil, b.nameMissing(ctx, &bucket, err)
	}
	err = backend.EvaluatePreconditions(aws.ToString(head.ETag), aws.ToTime(head.LastModified), backend.PreConditions{
		IfMatch: c.match, IfNoneMatch: c.noneMatch, IfModSince: c.modifiedSince, IfUnmodeSince: c.unmodifiedSince,
	})
	if err != nil {
		return nil, err
	}
	return &copiedObject{bucket, key, version, head}, nil
}

// copyContent returns the content of an object that is copied, or a range of it, and its size.
func (b *Backend) copyContent(ctx context.Context, from *copiedObject, ranged string) (io.ReadCloser, int64, error) {
	size := aws.ToInt64(from.head.ContentLength)
	start, length, err := backend.ParseCopySourceRange(size, ranged)
	if err != nil {
		return nil, 0, err
	}
	length = min(length, size-start)
	if length > maxCopy {
		return nil, 0, s3err.GetCopySourceObjectTooLargeErr(maxCopy)
	}
	in := &s3.GetObjectInput{Bucket: &from.bucket, Key: &from.key, IfMatch: bare(from.head.ETag)}
	if from.version != "" {
		in.VersionId = &from.version
	}
	if length < size {
		in.Range = byteRange(start, length)
	}
	out, err := b.getObject(ctx, ctx, in)
	if err != nil {
		return nil, 0, err
	}
	return out.Body, length, nil
}

// CopyObject copies an object's plaintext: the copy is encrypted anew, under the key of its own
// name.
func (b *Backend) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	out, err := b.copyObject(ctx, in)
	return out, b.fail(ctx, "copy", aws.ToString(in.Bucket), aws.ToString(in.Key), err)
}

func (b *Backend) copyObject(ctx context.Context, in s3response.CopyObjectInput) (out s3response.CopyObjectOutput, err error) {
	if err := checkKey(in.Key); err != nil {
		return out, err
	}
	from, err := b.copySource(ctx, *in.CopySource, in.ExpectedSourceBucketOwner, conditions{in.CopySourceIfMatch, in.CopySourceIfNoneMatch, in.CopySourceIfModifiedSince, in.CopySourceIfUnmodifiedSince})
	if err != nil {
		return out, err
	}
	put := s3response.PutObjectInput{
		Bucket: in.Bucket, Key: in.Key, ChecksumAlgorithm: in.ChecksumAlgorithm, WebsiteRedirectLocation: in.WebsiteRedirectLocation,
		ContentType: in.ContentType, ContentEncoding: in.ContentEncoding, ContentDisposition: in.ContentDisposition, ContentLanguage: in.ContentLanguage,
		CacheControl: in.CacheControl, Expires: in.Expires, Metadata: in.Metadata,
		ObjectLockRetainUntilDate: in.ObjectLockRetainUntilDate, ObjectLockMode: in.ObjectLockMode, ObjectLockLegalHoldStatus: in.ObjectLockLegalHoldStatus,
	}
	replace := in.MetadataDirective == types.MetadataDirectiveReplace
	if from.bucket == *in.Bucket && b.inner.NormalizeObjectKey(from.bucket, from.key) == b.inner.NormalizeObjectKey(*in.Bucket, *in.Key) && from.version == "" {
		if !replace {
			return out, s3err.GetAPIError(s3err.ErrInvalidCopyDest)
		}
		put.IfMatch = bare(from.head.ETag)
	}
	if !replace {
		h := from.head
		put.ContentType, put.ContentEncoding, put.ContentDisposition, put.ContentLanguage = h.ContentType, h.ContentEncoding, h.ContentDisposition, h.ContentLanguage
		put.CacheControl, put.Expires, put.Metadata = h.CacheControl, h.ExpiresString, h.Metadata
	}
	if in.TaggingDirective == types.TaggingDirectiveReplace {
		put.Tagging = in.Tagging
	} else if put.Tagging, err = b.tagging(ctx, from); err != nil {
		return out, err
	}
	head := *from.head
	sum := takeChecksum(&head)
	switch put.ChecksumAlgorithm {
	case "", sum.Algorithm:
		put.ChecksumAlgorithm = sum.Algorithm
		if head.ChecksumType == types.ChecksumTypeFullObject {
			sum.put(&put)
		}
	}
	body, size, err := b.copyContent(ctx, from, "")
	if err != nil {
		return out, err
	}
	defer body.Close()
	put.Body, put.ContentLength = body, &size
	done, err := b.putObject(ctx, put)
	if err != nil {
		return out, err
	}
	now := time.Now().UTC()
	result := &s3response.CopyObjectResult{ETag: &done.ETag, LastModified: &now}
	sum = takeChecksum(&done)
	sum.Type = done.ChecksumType
	sum.put(result)
	return s3response.CopyObjectOutput{CopyObjectResult: result, VersionId: &done.VersionID, CopySourceVersionId: &from.version}, nil
}

// tagging returns an object's tags as a request states them.
func (b *Backend) tagging(ctx context.Context, from *copiedObject) (*string, error) {
	if aws.ToInt32(from.head.TagCount) == 0 {
		return aws.String(""), nil
	}
	tags, err := b.inner.GetObjectTagging(ctx, from.bucket, from.key, from.version)
	if err != nil {
		return nil, err
	}
	values := make(url.Values, len(tags))
	for name, value := range tags {
		values.Set(name, value)
	}
	return aws.String(values.Encode()), nil
}
