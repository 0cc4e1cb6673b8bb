package s3storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/message"
)

// Version is one version of an object, open to be read from its beginning to its end. The caller
// closes it.
type Version struct {
	io.ReadCloser
	Key  string
	Size int64  // in bytes, as stored
	ID   string // of the version; empty in a bucket that never had versions

	etag *string
	tags int32
	kept s3.PutObjectInput // what a replacement has in common with it
	err  error             // why it can't be replaced by its like
}

// OpenVersion opens a version of an object. An empty id means the current one, whose ID the result
// says. The error holds fs.ErrNotExist if there is no such object or version.
func (s *Storage) OpenVersion(ctx context.Context, key, id string) (*Version, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &key}
	if id != "" {
		in.VersionId = &id
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return nil, s.failed("get", key, err)
	}
	v := versionOf(key, out)
	v.ReadCloser = out.Body
	return v, nil
}

// Replace puts content in the place of a version that OpenVersion opened, if that is still the
// current one. Otherwise the error holds pikokms.ErrChanged. The condition is on its ETag, as that
// of PutIf.
//
// The new object keeps the content type, the other headers that S3 stores, user metadata, tags, the
// storage class, encryption at rest under a key of AWS KMS, and a lock that the old one stated. Tags
// take the permissions s3:GetObjectTagging and s3:PutObjectTagging, and locks s3:GetObjectRetention,
// s3:GetObjectLegalHold and those to put them; without the former two, S3 states no lock. S3 has no
// way to keep the version's ID and time, and access control lists would need requests of their own.
// The new object is its bucket owner's, or whoever's the bucket says.
func (s *Storage) Replace(ctx context.Context, v *Version, content io.Reader) error {
	kept, err := s.keep(ctx, v, content)
	if err == nil {
		err = s.putGrowing(ctx, kept, &checked.Reader{Context: ctx, Source: content})
	}
	return s.replaced(v.Key, err)
}

// replaced returns the error of a replacement.
func (s *Storage) replaced(key string, err error) error {
	// S3 answers 404 for an object that was deleted, and 409 for one that was deleted during the
	// upload (Amazon S3 User Guide, "How to prevent object overwrites with conditional writes").
	if isStatus(err, http.StatusPreconditionFailed) || isStatus(err, http.StatusConflict) || isMissing(err) {
		err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
	}
	if err != nil {
		return fmt.Errorf("s3 storage: replace s3://%s/%s: %w", s.bucket, key, err)
	}
	return nil
}

// ErrNotKept means that an object has something that its replacement could not have.
var ErrNotKept = errors.New("can't be kept")

// keep returns how the replacement of a version is put.
func (s *Storage) keep(ctx context.Context, v *Version, content io.Reader) (*s3.PutObjectInput, error) {
	if v.err != nil {
		return nil, v.err
	}
	kept := v.kept
	kept.Bucket, kept.Key, kept.IfMatch = &s.bucket, &v.Key, v.etag
	kept.Metadata = maps.Clone(kept.Metadata)
	delete(kept.Metadata, headerSizeKey)
	if encrypted, ok := content.(*message.EncryptReader); ok {
		h := encrypted.Header()
		if _, compressed := h.EncryptionContext[pikokms.ChainKey]; !compressed && !h.Suite.Signed() {
			if kept.Metadata == nil {
				kept.Metadata = make(map[string]string, 1)
			}
			kept.Metadata[headerSizeKey] = strconv.Itoa(h.Size())
		}
	}
	if v.tags == 0 {
		return &kept, nil
	}
	in := &s3.GetObjectTaggingInput{Bucket: &s.bucket, Key: &v.Key}
	if v.ID != "" {
		in.VersionId = &v.ID
	}
	out, err := s.client.GetObjectTagging(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("reading its tags: %w", err)
	}
	tags := make(url.Values, len(out.TagSet))
	for _, tag := range out.TagSet {
		tags.Set(aws.ToString(tag.Key), aws.ToString(tag.Value))
	}
	kept.Tagging = aws.String(tags.Encode())
	return &kept, nil
}

// headerSizeKey is the MetadataKey of package blobstorage, which takes sizes from it. It must not
// outlive the header that it is about.
const headerSizeKey = "pikokms-header-size"

// versionOf returns what S3 says of an object.
func versionOf(key string, out *s3.GetObjectOutput) *Version {
	v := &Version{
		Key: key, Size: aws.ToInt64(out.ContentLength), ID: aws.ToString(out.VersionId), etag: out.ETag, tags: aws.ToInt32(out.TagCount),
		kept: s3.PutObjectInput{
			CacheControl: out.CacheControl, ContentDisposition: out.ContentDisposition, ContentEncoding: out.ContentEncoding,
			ContentLanguage: out.ContentLanguage, ContentType: out.ContentType, Metadata: out.Metadata,
			StorageClass: out.StorageClass, WebsiteRedirectLocation: out.WebsiteRedirectLocation,
			ObjectLockLegalHoldStatus: out.ObjectLockLegalHoldStatus,
		},
	}
	if out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKms || out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKmsDsse {
		v.kept.ServerSideEncryption, v.kept.SSEKMSKeyId, v.kept.BucketKeyEnabled = out.ServerSideEncryption, out.SSEKMSKeyId, out.BucketKeyEnabled
	}
	// S3 refuses a lock that has ended.
	if until := out.ObjectLockRetainUntilDate; until != nil && until.After(time.Now()) {
		v.kept.ObjectLockMode, v.kept.ObjectLockRetainUntilDate = out.ObjectLockMode, until
	}
	if text := aws.ToString(out.ExpiresString); text != "" {
		if expires, err := http.ParseTime(text); err != nil {
			v.err = fmt.Errorf("its header Expires, %.100q, %w: it is no date", text, ErrNotKept)
		} else {
			v.kept.Expires = &expires
		}
	}
	if n := aws.ToInt32(out.MissingMeta); n > 0 {
		v.err = fmt.Errorf("%d of its metadata, which no HTTP header can hold, %w", n, ErrNotKept)
	}
	return v
}

// headOf opens nothing, and returns what S3 says of the object that has this ETag.
func (s *Storage) headOf(ctx context.Context, key, etag string) (*Version, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key, IfMatch: &etag})
	if err != nil {
		return nil, err
	}
	v := versionOf(key, &s3.GetObjectOutput{
		ContentLength: head.ContentLength, VersionId: head.VersionId, TagCount: head.TagCount,
		CacheControl: head.CacheControl, ContentDisposition: head.ContentDisposition, ContentEncoding: head.ContentEncoding,
		ContentLanguage: head.ContentLanguage, ContentType: head.ContentType, Metadata: head.Metadata, MissingMeta: head.MissingMeta,
		StorageClass: head.StorageClass, WebsiteRedirectLocation: head.WebsiteRedirectLocation, ExpiresString: head.ExpiresString,
		ServerSideEncryption: head.ServerSideEncryption, SSEKMSKeyId: head.SSEKMSKeyId, BucketKeyEnabled: head.BucketKeyEnabled,
		ObjectLockLegalHoldStatus: head.ObjectLockLegalHoldStatus, ObjectLockMode: head.ObjectLockMode,
		ObjectLockRetainUntilDate: head.ObjectLockRetainUntilDate,
	})
	v.etag = &etag
	return v, nil
}
