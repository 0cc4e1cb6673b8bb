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

	found found
}

// found is what S3 says of a version of an object. Its JSON form is the version of GetVersion.
type found struct {
	ID      string
	Tags    int32             // how many it has; -1 if that is to be asked
	Kept    s3.PutObjectInput // what a replacement has in common with it, and the condition
	NotKept string            // what no replacement can have
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
	return &Version{ReadCloser: out.Body, Key: key, Size: aws.ToInt64(out.ContentLength), ID: aws.ToString(out.VersionId), found: foundIn(out)}, nil
}

// Replace puts content in the place of a version that OpenVersion opened, if that is still the
// current one. Otherwise the error holds pikokms.ErrChanged. The condition is If-Match on the ETag.
//
// The new object keeps the content type, the other headers that S3 stores, user metadata, tags, the
// storage class, encryption at rest under a key of AWS KMS, and a lock. Replace asks for the tags,
// which takes the permission s3:GetObjectTagging, and putting some takes s3:PutObjectTagging. PutIf
// asks for them only if S3 said how many there are, as it does to those who may read them. Locks
// take s3:GetObjectRetention, s3:GetObjectLegalHold and the permissions to put them; without the
// former two, S3 does not say that there are any, and they are lost. Access control lists are lost,
// too, and the version's ID and time. The error holds ErrNotKept if a header or metadata would be
// lost.
func (s *Storage) Replace(ctx context.Context, v *Version, content io.Reader) error {
	f := v.found
	f.Tags = -1
	return s.replace(ctx, v.Key, f, content)
}

func (s *Storage) replace(ctx context.Context, key string, f found, content io.Reader) error {
	kept, err := s.keep(ctx, key, f, content)
	sent := &checked.Sent{Source: content}
	if err == nil {
		err = s.putGrowing(ctx, kept, &checked.Reader{Context: ctx, Source: sent})
	}
	stored := func() (io.ReadCloser, error) {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key})
		if err != nil {
			return nil, err
		}
		return out.Body, nil
	}
	// S3 answers 404 for an object that was deleted, and 409 for one that was deleted during the
	// upload (Amazon S3 User Guide, "How to prevent object overwrites with conditional writes"). 404
	// is also its answer for an upload in parts that was completed before.
	if isStatus(err, http.StatusPreconditionFailed) || isStatus(err, http.StatusConflict) || isMissing(err) {
		if sent.Is(stored) {
			return nil // the answer was lost, and what is refused is a second request
		}
		err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
	}
	if err != nil {
		return fmt.Errorf("s3 storage: replace s3://%s/%s: %w", s.bucket, key, err)
	}
	return nil
}

// ErrNotKept means that an object has something that its replacement could not have.
var ErrNotKept = errors.New("a replacement could not keep all of it")

// keep returns how the replacement of a version is put.
func (s *Storage) keep(ctx context.Context, key string, f found, content io.Reader) (*s3.PutObjectInput, error) {
	if f.NotKept != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotKept, f.NotKept)
	}
	kept := f.Kept
	kept.Bucket, kept.Key = &s.bucket, &key
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
	if f.Tags != 0 {
		tags, err := s.tags(ctx, key, f.ID)
		if err != nil {
			return nil, fmt.Errorf("reading its tags: %w", err)
		}
		kept.Tagging = tags
	}
	return &kept, nil
}

// tags returns the tags of a version as they are put.
func (s *Storage) tags(ctx context.Context, key, id string) (*string, error) {
	in := &s3.GetObjectTaggingInput{Bucket: &s.bucket, Key: &key}
	if id != "" {
		in.VersionId = &id
	}
	out, err := s.client.GetObjectTagging(ctx, in)
	// Directory buckets, and some services like S3, have no tags.
	if isStatus(err, http.StatusNotImplemented) || isStatus(err, http.StatusMethodNotAllowed) {
		return nil, nil
	}
	if err != nil || len(out.TagSet) == 0 {
		return nil, err
	}
	tags := make(url.Values, len(out.TagSet))
	for _, tag := range out.TagSet {
		tags.Set(aws.ToString(tag.Key), aws.ToString(tag.Value))
	}
	return aws.String(tags.Encode()), nil
}

// headerSizeKey is the MetadataKey of package blobstorage, which takes sizes from it. It must not
// outlive the header that it is about.
const headerSizeKey = "pikokms-header-size"

// foundIn returns what S3 says of an object.
func foundIn(out *s3.GetObjectOutput) found {
	f := found{
		ID: aws.ToString(out.VersionId), Tags: aws.ToInt32(out.TagCount),
		Kept: s3.PutObjectInput{
			IfMatch:      out.ETag,
			CacheControl: out.CacheControl, ContentDisposition: out.ContentDisposition, ContentEncoding: out.ContentEncoding,
			ContentLanguage: out.ContentLanguage, ContentType: out.ContentType, Metadata: out.Metadata,
			StorageClass: out.StorageClass, WebsiteRedirectLocation: out.WebsiteRedirectLocation,
			ObjectLockLegalHoldStatus: out.ObjectLockLegalHoldStatus, ObjectLockEventHold: out.ObjectLockEventHold,
			ObjectLockEventHoldDurationDays: out.ObjectLockEventHoldDurationDays, ObjectLockEventHoldDurationYears: out.ObjectLockEventHoldDurationYears,
		},
	}
	if out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKms || out.ServerSideEncryption == s3types.ServerSideEncryptionAwsKmsDsse {
		f.Kept.ServerSideEncryption, f.Kept.SSEKMSKeyId, f.Kept.BucketKeyEnabled = out.ServerSideEncryption, out.SSEKMSKeyId, out.BucketKeyEnabled
	}
	// S3 refuses a lock that has ended.
	if until := out.ObjectLockRetainUntilDate; until != nil && until.After(time.Now()) {
		f.Kept.ObjectLockMode, f.Kept.ObjectLockRetainUntilDate = out.ObjectLockMode, until
	}
	if text := aws.ToString(out.ExpiresString); text != "" {
		if expires, err := http.ParseTime(text); err != nil {
			f.NotKept = fmt.Sprintf("its header Expires, %.100q, is no date", text)
		} else {
			f.Kept.Expires = &expires
		}
	}
	if n := aws.ToInt32(out.MissingMeta); n > 0 {
		f.NotKept = fmt.Sprintf("%d of its metadata can't be in HTTP headers", n)
	}
	return f
}
