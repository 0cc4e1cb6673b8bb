package s3storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Version is one version of an object: S3's answer to a GET of it. Its Body is the content, which
// the caller closes, and its ContentLength is never nil. A Version is for one goroutine.
type Version struct {
	*s3.GetObjectOutput
	Key string

	*client
	original *original // nil if OpenVersion did not return the Version
}

// original is the object that a copy or a replacement is made of.
type original struct {
	storage *Storage // nil if it is not in S3
	key, id string
	found   found
	kept    *kept // what a replacement keeps; nil if S3 was not asked yet
}

// originalIn returns the original that v describes. If OpenVersion did not return v, it is in s.
func (v *Version) originalIn(s *Storage) *original {
	if v.original != nil {
		return v.original
	}
	o := &original{storage: s, key: v.Key}
	if v.GetObjectOutput != nil {
		o.id, o.found = aws.ToString(v.VersionId), foundIn(v.GetObjectOutput)
	}
	return o
}

// found holds S3's description of a version. Its JSON form is the version of GetVersion.
type found struct {
	ID          string
	ModTime     time.Time
	Kept        s3.PutObjectInput // what a replacement keeps, except tags, and the ETag as the condition
	Expires     string            // the header, which need not be a date
	MissingMeta int32             // how many metadata can't be in HTTP headers
	Checksum    s3types.ChecksumAlgorithm
}

// OpenVersion opens a version of an object. An empty id means the current one, whose ID is in the
// result. The error holds fs.ErrNotExist if there is no such object or version.
func (s *Storage) OpenVersion(ctx context.Context, key, id string) (*Version, error) {
	v, err := s.openVersion(ctx, key, id)
	if err != nil {
		return nil, err
	}
	if err := v.lookForInstruction(ctx); err != nil {
		return nil, s.failed("get", key, errors.Join(err, v.Body.Close()))
	}
	return v, nil
}

func (s *Storage) openVersion(ctx context.Context, key, id string) (*Version, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &key}
	if id != "" {
		in.VersionId = &id
	}
	// S3 states the checksum, whose algorithm a replacement keeps, only if it is asked. If
	// ChecksumMode asks, the SDK verifies the checksum. For a client that does not want that, the
	// header asks.
	ask := func(*s3.Options) {}
	if s.client.Options().ResponseChecksumValidation == aws.ResponseChecksumValidationWhenRequired {
		ask = s3.WithAPIOptions(smithyhttp.SetHeaderValue("X-Amz-Checksum-Mode", string(s3types.ChecksumModeEnabled)))
	} else {
		in.ChecksumMode = s3types.ChecksumModeEnabled
	}
	out, err := s.client.GetObject(ctx, in, ask)
	if err != nil {
		return nil, s.failed("get", key, err)
	}
	if err := checkWhole(out, id); err != nil {
		return nil, s.failed("get", key, errors.Join(err, out.Body.Close()))
	}
	described := &client{storage: s, key: key, size: *out.ContentLength, metadata: out.Metadata}
	out.Body = &content{out.Body, out.Body, described}
	return &Version{out, key, described, &original{storage: s, key: key, id: aws.ToString(out.VersionId), found: foundIn(out)}}, nil
}

// checkWhole checks that an answer is the whole of the version that was asked for. The page of a
// proxy has no ETag. An answer that states no size may end where the connection does, so a cut one
// looks whole.
func checkWhole(out *s3.GetObjectOutput, id string) error {
	switch {
	case out.ETag == nil && out.LastModified == nil:
		return fmt.Errorf("%w: it states neither an ETag nor a time, so it is no object", ErrAnswer)
	case out.ContentLength == nil || *out.ContentLength < 0:
		return fmt.Errorf("%w: it states no size", ErrAnswer)
	case out.ContentRange != nil:
		return fmt.Errorf("%w: it gives %.100q, and the whole was asked for", ErrAnswer, *out.ContentRange)
	case id != "" && aws.ToString(out.VersionId) != id:
		return fmt.Errorf("%w: it gives version %.100q", ErrAnswer, aws.ToString(out.VersionId))
	}
	return nil
}

// foundIn returns S3's description of an object.
func foundIn(out *s3.GetObjectOutput) found {
	f := found{
		ID: aws.ToString(out.VersionId), ModTime: aws.ToTime(out.LastModified),
		Expires: aws.ToString(out.ExpiresString), MissingMeta: aws.ToInt32(out.MissingMeta), Checksum: checksumOf(out),
		Kept: s3.PutObjectInput{
			IfMatch:      out.ETag,
			CacheControl: out.CacheControl, ContentDisposition: out.ContentDisposition, ContentEncoding: out.ContentEncoding,
			ContentLanguage: out.ContentLanguage, ContentType: out.ContentType, Metadata: out.Metadata,
			StorageClass: out.StorageClass, WebsiteRedirectLocation: out.WebsiteRedirectLocation,
			ObjectLockLegalHoldStatus: out.ObjectLockLegalHoldStatus, ObjectLockEventHold: out.ObjectLockEventHold,
			ObjectLockEventHoldDurationDays: out.ObjectLockEventHoldDurationDays, ObjectLockEventHoldDurationYears: out.ObjectLockEventHoldDurationYears,
			ObjectLockMode: out.ObjectLockMode, ObjectLockRetainUntilDate: out.ObjectLockRetainUntilDate,
		},
	}
	if out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKms || out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKmsDsse {
		f.Kept.ServerSideEncryption, f.Kept.SSEKMSKeyId, f.Kept.BucketKeyEnabled = out.ServerSideEncryption, out.SSEKMSKeyId, out.BucketKeyEnabled
	}
	return f
}

// checksumOf returns the algorithm of an object's checksum, or "" if S3 states none.
func checksumOf(out *s3.GetObjectOutput) s3types.ChecksumAlgorithm {
	for _, c := range []struct {
		algorithm s3types.ChecksumAlgorithm
		value     *string
	}{
		{s3types.ChecksumAlgorithmCrc64nvme, out.ChecksumCRC64NVME},
		{s3types.ChecksumAlgorithmCrc32, out.ChecksumCRC32},
		{s3types.ChecksumAlgorithmCrc32c, out.ChecksumCRC32C},
		{s3types.ChecksumAlgorithmSha256, out.ChecksumSHA256},
		{s3types.ChecksumAlgorithmSha1, out.ChecksumSHA1},
		{s3types.ChecksumAlgorithmSha512, out.ChecksumSHA512},
		{s3types.ChecksumAlgorithmMd5, out.ChecksumMD5},
		{s3types.ChecksumAlgorithmXxhash64, out.ChecksumXXHASH64},
		{s3types.ChecksumAlgorithmXxhash3, out.ChecksumXXHASH3},
		{s3types.ChecksumAlgorithmXxhash128, out.ChecksumXXHASH128},
	} {
		if c.value != nil {
			return c.algorithm
		}
	}
	return ""
}
