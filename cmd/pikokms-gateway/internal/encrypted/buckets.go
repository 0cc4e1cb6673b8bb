package encrypted

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// Requests about whole buckets carry no content of objects, so the inner backend answers them.

func (b *Backend) ListBuckets(ctx context.Context, in s3response.ListBucketsInput) (s3response.ListAllMyBucketsResult, error) {
	return b.inner.ListBuckets(ctx, in)
}

// HeadBucket reports whether there is a bucket.
func (b *Backend) HeadBucket(ctx context.Context, in *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	out, err := b.inner.HeadBucket(ctx, in)
	if isNotFound(err) {
		err = s3err.GetBucketErr(s3err.ErrNoSuchBucket, aws.ToString(in.Bucket))
	}
	return out, err
}

// isNotFound reports whether an error is that of a HEAD request to S3, whose answer can't say what
// is missing.
func isNotFound(err error) bool {
	answered, ok := errors.AsType[s3err.S3Error](err)
	return ok && answered.BaseError().Code == "NotFound"
}

// nameMissing replaces an error that does not say what is missing by one that does, as S3 returns
// it to requests other than HEAD.
func (b *Backend) nameMissing(ctx context.Context, bucket *string, err error) error {
	if !isNotFound(err) {
		return err
	}
	if _, err := b.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: bucket}); err != nil {
		return err
	}
	return s3err.GetAPIError(s3err.ErrNoSuchKey)
}

func (b *Backend) GetBucketAcl(ctx context.Context, in *s3.GetBucketAclInput) ([]byte, error) {
	return b.inner.GetBucketAcl(ctx, in)
}

func (b *Backend) CreateBucket(ctx context.Context, in *s3.CreateBucketInput, defaultACL []byte) error {
	return b.inner.CreateBucket(ctx, in, defaultACL)
}

// checkSettings refuses a setting of a bucket in front of another S3. The engine would answer with
// success there, and neither store the setting nor obey it.
func (b *Backend) checkSettings() error {
	if b.isFolder {
		return nil
	}
	return s3err.GetAPIError(s3err.ErrNotImplemented)
}

func (b *Backend) PutBucketAcl(ctx context.Context, bucket string, data []byte) error {
	if err := b.checkSettings(); err != nil {
		return err
	}
	return b.inner.PutBucketAcl(ctx, bucket, data)
}

func (b *Backend) PutBucketVersioning(ctx context.Context, bucket string, status types.BucketVersioningStatus) error {
	return b.inner.PutBucketVersioning(ctx, bucket, status)
}

func (b *Backend) GetBucketVersioning(ctx context.Context, bucket string) (s3response.GetBucketVersioningOutput, error) {
	return b.inner.GetBucketVersioning(ctx, bucket)
}

func (b *Backend) PutBucketPolicy(ctx context.Context, bucket string, policy []byte) error {
	if err := b.checkSettings(); err != nil {
		return err
	}
	return b.inner.PutBucketPolicy(ctx, bucket, policy)
}

func (b *Backend) GetBucketPolicy(ctx context.Context, bucket string) ([]byte, error) {
	return b.inner.GetBucketPolicy(ctx, bucket)
}

func (b *Backend) DeleteBucketPolicy(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucketPolicy(ctx, bucket)
}

func (b *Backend) PutBucketOwnershipControls(ctx context.Context, bucket string, ownership types.ObjectOwnership) error {
	return b.inner.PutBucketOwnershipControls(ctx, bucket, ownership)
}

func (b *Backend) GetBucketOwnershipControls(ctx context.Context, bucket string) (types.ObjectOwnership, error) {
	return b.inner.GetBucketOwnershipControls(ctx, bucket)
}

func (b *Backend) DeleteBucketOwnershipControls(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucketOwnershipControls(ctx, bucket)
}

func (b *Backend) PutBucketCors(ctx context.Context, bucket string, cors []byte) error {
	if err := b.checkSettings(); err != nil {
		return err
	}
	return b.inner.PutBucketCors(ctx, bucket, cors)
}

func (b *Backend) GetBucketCors(ctx context.Context, bucket string) ([]byte, error) {
	return b.inner.GetBucketCors(ctx, bucket)
}

func (b *Backend) DeleteBucketCors(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucketCors(ctx, bucket)
}

func (b *Backend) PutBucketWebsite(ctx context.Context, bucket string, website []byte) error {
	if err := b.checkSettings(); err != nil {
		return err
	}
	return b.inner.PutBucketWebsite(ctx, bucket, website)
}

func (b *Backend) GetBucketWebsite(ctx context.Context, bucket string) ([]byte, error) {
	return b.inner.GetBucketWebsite(ctx, bucket)
}

func (b *Backend) DeleteBucketWebsite(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucketWebsite(ctx, bucket)
}

func (b *Backend) GetBucketTagging(ctx context.Context, bucket string) (map[string]string, error) {
	return b.inner.GetBucketTagging(ctx, bucket)
}

func (b *Backend) PutBucketTagging(ctx context.Context, bucket string, tags map[string]string) error {
	return b.inner.PutBucketTagging(ctx, bucket, tags)
}

func (b *Backend) DeleteBucketTagging(ctx context.Context, bucket string) error {
	return b.inner.DeleteBucketTagging(ctx, bucket)
}

func (b *Backend) PutObjectLockConfiguration(ctx context.Context, bucket string, config []byte) error {
	return b.inner.PutObjectLockConfiguration(ctx, bucket, config)
}

func (b *Backend) GetObjectLockConfiguration(ctx context.Context, bucket string) ([]byte, error) {
	return b.inner.GetObjectLockConfiguration(ctx, bucket)
}

func (b *Backend) ChangeBucketOwner(ctx context.Context, bucket, owner string) error {
	return b.inner.ChangeBucketOwner(ctx, bucket, owner)
}

func (b *Backend) ListBucketsAndOwners(ctx context.Context) ([]s3response.Bucket, error) {
	return b.inner.ListBucketsAndOwners(ctx)
}

// The inner backend also answers requests about an object's tags, locks and grants.

func (b *Backend) GetObjectTagging(ctx context.Context, bucket, object, versionID string) (map[string]string, error) {
	if err := b.checkServed(bucket, &object); err != nil {
		return nil, err
	}
	out, err := b.inner.GetObjectTagging(ctx, bucket, object, versionID)
	return out, b.fail(ctx, "get tags", bucket, object, err)
}

func (b *Backend) PutObjectTagging(ctx context.Context, bucket, object, versionID string, tags map[string]string) error {
	if err := b.checkServed(bucket, &object); err != nil {
		return err
	}
	return b.fail(ctx, "put tags", bucket, object, b.inner.PutObjectTagging(ctx, bucket, object, versionID, tags))
}

func (b *Backend) DeleteObjectTagging(ctx context.Context, bucket, object, versionID string) error {
	if err := b.checkServed(bucket, &object); err != nil {
		return err
	}
	return b.fail(ctx, "delete tags", bucket, object, b.inner.DeleteObjectTagging(ctx, bucket, object, versionID))
}

func (b *Backend) PutObjectRetention(ctx context.Context, bucket, object, versionID string, retention []byte) error {
	if err := b.checkServed(bucket, &object); err != nil {
		return err
	}
	return b.fail(ctx, "put retention", bucket, object, b.inner.PutObjectRetention(ctx, bucket, object, versionID, retention))
}

func (b *Backend) GetObjectRetention(ctx context.Context, bucket, object, versionID string) ([]byte, error) {
	if err := b.checkServed(bucket, &object); err != nil {
		return nil, err
	}
	out, err := b.inner.GetObjectRetention(ctx, bucket, object, versionID)
	return out, b.fail(ctx, "get retention", bucket, object, err)
}

func (b *Backend) PutObjectLegalHold(ctx context.Context, bucket, object, versionID string, status bool) error {
	if err := b.checkServed(bucket, &object); err != nil {
		return err
	}
	return b.fail(ctx, "put legal hold", bucket, object, b.inner.PutObjectLegalHold(ctx, bucket, object, versionID, status))
}

func (b *Backend) GetObjectLegalHold(ctx context.Context, bucket, object, versionID string) (*bool, error) {
	if err := b.checkServed(bucket, &object); err != nil {
		return nil, err
	}
	out, err := b.inner.GetObjectLegalHold(ctx, bucket, object, versionID)
	return out, b.fail(ctx, "get legal hold", bucket, object, err)
}

func (b *Backend) GetObjectAcl(ctx context.Context, in *s3.GetObjectAclInput) (*s3.GetObjectAclOutput, error) {
	if err := b.checkServed(*in.Bucket, in.Key); err != nil {
		return nil, err
	}
	out, err := b.inner.GetObjectAcl(ctx, in)
	return out, b.fail(ctx, "get ACL", *in.Bucket, *in.Key, err)
}

func (b *Backend) PutObjectAcl(ctx context.Context, in *s3.PutObjectAclInput) error {
	if err := b.checkServed(*in.Bucket, in.Key); err != nil {
		return err
	}
	return b.fail(ctx, "put ACL", *in.Bucket, *in.Key, b.inner.PutObjectAcl(ctx, in))
}

// RestoreObject brings an object back from an archive, as it is stored.
func (b *Backend) RestoreObject(ctx context.Context, in *s3.RestoreObjectInput) error {
	if err := b.checkServed(*in.Bucket, in.Key); err != nil {
		return err
	}
	if in.RestoreRequest != nil && (in.RestoreRequest.Type != "" || in.RestoreRequest.SelectParameters != nil || in.RestoreRequest.OutputLocation != nil) {
		return s3err.GetAPIError(s3err.ErrNotImplemented) // a query would find only ciphertext
	}
	return b.fail(ctx, "restore", *in.Bucket, *in.Key, b.inner.RestoreObject(ctx, in))
}
