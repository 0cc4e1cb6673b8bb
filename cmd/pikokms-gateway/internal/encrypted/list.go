package encrypted

import (
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
	"golang.org/x/sync/errgroup"
)

// pastHidden is a marker behind all that is hidden.
const pastHidden = hidden + "\U0010FFFF"

// ListObjectsV2 lists the objects of clients, with the sizes of their plaintext.
func (b *Backend) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	out, err := b.inner.ListObjectsV2(ctx, in)
	if err == nil && begins(out.Contents, out.CommonPrefixes) {
		out, err = b.listPast(ctx, in, out)
	}
	if err == nil {
		err = b.describe(ctx, in.Bucket, out.Contents)
	}
	return out, b.fail(ctx, "list", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

// listPast returns a listing without what is hidden. It asks for as many objects as that leaves room
// for.
func (b *Backend) listPast(ctx context.Context, in *s3.ListObjectsV2Input, first s3response.ListObjectsV2Result) (s3response.ListObjectsV2Result, error) {
	objects, prefixes := withoutHidden(first.Contents, first.CommonPrefixes)
	out := first
	if aws.ToBool(first.IsTruncated) {
		next := *in
		next.ContinuationToken, next.StartAfter = aws.String(""), aws.String(pastHidden)
		if last := lastOf(objects, prefixes); last > pastHidden { // the page goes on behind
			return out, nil
		}
		more := aws.ToInt32(in.MaxKeys) - int32(len(objects)+len(prefixes))
		next.MaxKeys = &more
		rest, err := b.inner.ListObjectsV2(ctx, &next)
		if err != nil {
			return out, err
		}
		objects, prefixes = append(objects, rest.Contents...), append(prefixes, rest.CommonPrefixes...)
		out.IsTruncated, out.NextContinuationToken = rest.IsTruncated, rest.NextContinuationToken
	}
	out.Contents, out.CommonPrefixes = objects, prefixes
	out.KeyCount = aws.Int32(int32(len(objects) + len(prefixes)))
	return out, nil
}

// ListObjects is ListObjectsV2 in its first version.
func (b *Backend) ListObjects(ctx context.Context, in *s3.ListObjectsInput) (s3response.ListObjectsResult, error) {
	out, err := b.inner.ListObjects(ctx, in)
	if err == nil && begins(out.Contents, out.CommonPrefixes) {
		objects, prefixes := withoutHidden(out.Contents, out.CommonPrefixes)
		if aws.ToBool(out.IsTruncated) && lastOf(objects, prefixes) < pastHidden {
			next := *in
			more := aws.ToInt32(in.MaxKeys) - int32(len(objects)+len(prefixes))
			next.Marker, next.MaxKeys = aws.String(pastHidden), &more
			var rest s3response.ListObjectsResult
			if rest, err = b.inner.ListObjects(ctx, &next); err == nil {
				objects, prefixes = append(objects, rest.Contents...), append(prefixes, rest.CommonPrefixes...)
				out.IsTruncated, out.NextMarker = rest.IsTruncated, rest.NextMarker
			}
		}
		out.Contents, out.CommonPrefixes = objects, prefixes
	}
	if err == nil {
		err = b.describe(ctx, in.Bucket, out.Contents)
	}
	return out, b.fail(ctx, "list", aws.ToString(in.Bucket), aws.ToString(in.Prefix), err)
}

func isHidden(key *string) bool { return strings.HasPrefix(aws.ToString(key), hidden) }

// begins reports whether a listing has something that is hidden.
func begins(objects []s3response.Object, prefixes []types.CommonPrefix) bool {
	for _, o := range objects {
		if isHidden(o.Key) {
			return true
		}
	}
	for _, p := range prefixes {
		if isHidden(p.Prefix) {
			return true
		}
	}
	return false
}

func withoutHidden(objects []s3response.Object, prefixes []types.CommonPrefix) (o []s3response.Object, p []types.CommonPrefix) {
	for _, object := range objects {
		if !isHidden(object.Key) {
			o = append(o, object)
		}
	}
	for _, prefix := range prefixes {
		if !isHidden(prefix.Prefix) {
			p = append(p, prefix)
		}
	}
	return o, p
}

func lastOf(objects []s3response.Object, prefixes []types.CommonPrefix) (last string) {
	if n := len(objects); n > 0 {
		last = *objects[n-1].Key
	}
	if n := len(prefixes); n > 0 {
		last = max(last, *prefixes[n-1].Prefix)
	}
	return last
}

// listingRequests is how many sizes a listing asks for at a time.
const listingRequests = 32

// describe replaces the sizes and the ETags of stored objects by those that clients see.
func (b *Backend) describe(ctx context.Context, bucket *string, objects []s3response.Object) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(listingRequests)
	for i := range objects {
		o := &objects[i]
		group.Go(func() error {
			size, err := b.listedSize(ctx, bucket, o.Key, nil, o.ETag, aws.ToInt64(o.Size))
			o.Size, o.ETag = &size, outerTag(o.ETag)
			return err
		})
	}
	return group.Wait()
}

// listedSize returns the size of the plaintext of a listed object. It is that of the stored object
// if that is none of the gateway's.
func (b *Backend) listedSize(ctx context.Context, bucket, key, version, tag *string, stored int64) (int64, error) {
	k, _, err := b.key(*bucket, *key)
	if err != nil {
		return stored, err
	}
	head, err := b.inner.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key, VersionId: version, Range: aws.String("")})
	if gone, ok := errors.AsType[s3err.S3Error](err); ok && gone.StatusCode() == 404 {
		return stored, nil // it was deleted since
	}
	if err != nil {
		return stored, err
	}
	own, _ := ownMetadata(head.Metadata)
	size, err := b.size(ctx, k, bucket, key, version, aws.ToInt64(head.ContentLength), own)
	if err != nil {
		return stored, nil
	}
	return size, nil
}

// DeleteObject deletes an object. A condition on the size is about the plaintext.
func (b *Backend) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	if err := visible(in.Key); err != nil {
		return nil, err
	}
	inner := *in
	inner.IfMatch, inner.IfMatchSize = innerTag(in.IfMatch), nil
	if in.IfMatchSize != nil {
		head, err := b.HeadObject(ctx, &s3.HeadObjectInput{Bucket: in.Bucket, Key: in.Key, VersionId: in.VersionId})
		switch {
		case err != nil: // the inner backend says what is wrong
		case aws.ToInt64(head.ContentLength) != *in.IfMatchSize:
			return nil, s3err.GetPreconditionFailedErr(s3err.ConditionIfMatchSize)
		case in.IfMatch == nil:
			inner.IfMatch = innerTag(head.ETag)
		}
	}
	return b.inner.DeleteObject(ctx, &inner)
}

// DeleteObjects deletes objects.
func (b *Backend) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (out s3response.DeleteResult, err error) {
	refused := make([]types.Error, 0)
	inner := *in
	inner.Delete = &types.Delete{Quiet: in.Delete.Quiet}
	for _, object := range in.Delete.Objects {
		if err := visible(object.Key); err != nil {
			refused = append(refused, types.Error{Key: object.Key, VersionId: object.VersionId, Code: aws.String("AccessDenied"), Message: aws.String("The name is the gateway's own.")})
			continue
		}
		object.ETag = innerTag(object.ETag)
		inner.Delete.Objects = append(inner.Delete.Objects, object)
	}
	if len(inner.Delete.Objects) > 0 {
		out, err = b.inner.DeleteObjects(ctx, &inner)
	}
	out.Error = append(out.Error, refused...)
	return out, err
}

// DeleteBucket deletes a bucket without objects of clients. Uploads that were not completed go with
// it, as in S3.
func (b *Backend) DeleteBucket(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucket(ctx, bucket)
}
