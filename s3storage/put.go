package s3storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/transfer"
)

// errS3EncryptionClient means that AWS's S3 Encryption Client wrote the object. It was left as it
// is, since the client could not read a replacement.
var errS3EncryptionClient = fmt.Errorf("%w, and could not read it any more", s3ec.ErrS3EncryptionClient)

const contentType = "application/octet-stream"

// Put stores an object. S3 shows an object once it is complete. Its content type is
// application/octet-stream. Unless the client's options say otherwise, each part and the whole have
// a checksum that S3 verifies. After an error, Put deletes the parts that it has uploaded. In case
// that fails, too, let a lifecycle rule delete incomplete uploads. If S3's last answer is lost, is
// an error of the server, or does not say that the object is there, Put reads it back: the same
// content is no error. If it can't be read either, it may have been stored in spite of the error.
func (s *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	return s.PutLike(ctx, key, nil, content)
}

// PutLike is Put, and the new object has the content type, the other headers that S3 stores, user
// metadata, tags, the storage class and the checksum algorithm of like, which may be a version in
// another bucket. The lock and the KMS key are not kept, since they depend on the bucket. PutLike
// asks for the tags. The error holds ErrNotKept, as in Replace, or s3ec.ErrS3EncryptionClient. A
// like of nil has nothing to keep. One that OpenVersion did not return stands for an object of
// another service, and has what is in its GetObjectOutput.
func (s *Storage) PutLike(ctx context.Context, key string, like *Version, content io.Reader) error {
	return s.putLike(ctx, "put", key, like, condition{}, content)
}

// PutNew is PutLike for an object that does not exist yet, by the condition If-None-Match. If there
// is one, the error holds fs.ErrExist. It holds ErrNoConditions if the service has no such
// condition. A service may also ignore it. So if the client's endpoint is not AWS's own, PutNew
// looks whether there is an object just before it writes, until it has seen the service refuse: it
// puts the first small object twice. One that has the same content is taken for what an earlier
// request of this PutNew stored, whose answer was lost.
func (s *Storage) PutNew(ctx context.Context, key string, like *Version, content io.Reader) error {
	return s.putLike(ctx, "put new", key, like, condition{absent: true}, content)
}

func (s *Storage) putLike(ctx context.Context, doing, key string, like *Version, c condition, content io.Reader) error {
	if like == nil {
		if err := s.store(ctx, key, &s3.PutObjectInput{ContentType: aws.String(contentType)}, "", c, content); err != nil {
			return s.named(doing, key, err)
		}
		return nil
	}
	if replacesS3EC(like, content) {
		return s.named(doing, key, errS3EncryptionClient)
	}
	o := like.originalIn(nil)
	k := o.copied()
	if o.storage != nil {
		if err := k.addTags(ctx, o); err != nil {
			return s.named(doing, key, fmt.Errorf("reading the tags of s3://%s/%s: %w", o.storage.bucket, onOneLine(o.key), err))
		}
	}
	if err := s.refuse(k.losses); err != nil {
		return s.named(doing, key, err)
	}
	in := s3.PutObjectInput{
		CacheControl: k.in.CacheControl, ContentDisposition: k.in.ContentDisposition, ContentEncoding: k.in.ContentEncoding,
		ContentLanguage: k.in.ContentLanguage, ContentType: k.in.ContentType, Metadata: k.in.Metadata, Tagging: k.in.Tagging,
		WebsiteRedirectLocation: k.in.WebsiteRedirectLocation, ChecksumAlgorithm: k.in.ChecksumAlgorithm,
	}
	if o.storage == nil || isDirectory(s.bucket) == isDirectory(o.storage.bucket) { // directory buckets have other classes
		in.StorageClass = k.in.StorageClass
	}
	if _, ok := content.(*s3ec.Moved); ok {
		in.Metadata = s3ec.WithoutMetadata(in.Metadata)
	}
	if err := s.store(ctx, key, &in, o.found.Expires, c, content); err != nil {
		return s.named(doing, key, err)
	}
	return nil
}

// replacesS3EC reports whether the S3 Encryption Client wrote a version, and content is not the
// object into which it was moved.
func replacesS3EC(v *Version, content io.Reader) bool {
	_, moved := content.(*s3ec.Moved)
	return !moved && (v.S3EncryptionClient() || v.GetObjectOutput != nil && isClientMetadata(v.Metadata))
}

// Replace puts content in the place of a version that OpenVersion opened, if that is still the
// current one. Otherwise the error holds pikokms.ErrChanged. The condition is If-Match on the ETag,
// which AWS has had since November 2024. A service without that condition answers with an error,
// which holds ErrNoConditions, or ignores it. So if the client's endpoint is not AWS's own, Replace
// also looks at the object just before it writes, and what another puts between the two may be
// lost.
//
// What the new object keeps is in the table of docs/OPERATIONS.md, "What an object keeps". The
// permissions for that are s3:GetObjectTagging, and in buckets with access control lists or locks
// s3:GetObjectAcl, s3:GetObjectRetention and s3:GetObjectLegalHold; to put them,
// s3:PutObjectTagging, s3:PutObjectRetention and s3:PutObjectLegalHold. Once for a bucket, Replace
// asks whether it has lists and locks at all, by s3:GetBucketOwnershipControls and, if it has
// versions, s3:GetBucketObjectLockConfiguration.
//
// If something can't be kept or seen, the error holds ErrNotKept, unless WithAllowedLosses names
// it. NotKept returns that beforehand. The version's ID and time are never kept. The error holds
// s3ec.ErrS3EncryptionClient if that client wrote the object, unless content is an s3ec.Moved. Then
// the client's metadata go, and its instruction file once the new object was read back.
func (s *Storage) Replace(ctx context.Context, v *Version, content io.Reader) error {
	if err := s.replace(ctx, v, content); err != nil {
		return s.named("replace", v.Key, err)
	}
	return nil
}

// PutIf is Replace for a version of GetVersion.
func (s *Storage) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	var f found
	if err := json.Unmarshal([]byte(version), &f); err != nil || f.ModTime.IsZero() && f.Kept.IfMatch == nil {
		return s.named("replace", key, fmt.Errorf("the version %.100q is not one of GetVersion", version))
	}
	v := &Version{Key: key, client: &client{storage: s, key: key, metadata: f.Kept.Metadata}, original: &original{storage: s, key: key, id: f.ID, found: f}}
	return s.Replace(ctx, v, content)
}

func (s *Storage) replace(ctx context.Context, v *Version, content io.Reader) error {
	if replacesS3EC(v, content) {
		return errS3EncryptionClient
	}
	o := v.originalIn(s)
	c := condition{etag: aws.ToString(o.found.Kept.IfMatch), modTime: o.found.ModTime}
	if c.etag == "" && (c.modTime.IsZero() || !s.soleWriter) {
		return fmt.Errorf("%w: it states no ETag", ErrNoConditions)
	}
	k, err := o.keep(ctx, !s.allowed[LossACL])
	if isMissing(err) {
		return fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
	}
	if err != nil {
		return err
	}
	if err := s.refuse(k.losses); err != nil {
		return err
	}
	in := k.in
	if _, ok := content.(*s3ec.Moved); ok {
		in.Metadata = s3ec.WithoutMetadata(in.Metadata)
	}
	err = s.store(ctx, v.Key, &in, o.found.Expires, c, content)
	if err != nil {
		return err
	}
	return s.confirmLock(ctx, v.Key, &in)
}

// condition is the condition on which an object is put. The zero value is none.
type condition struct {
	absent  bool // there is no object
	etag    string
	modTime time.Time // if the service has no ETag
}

func (c condition) any() bool { return c != condition{} }

// broken returns the error of a condition that does not hold.
func (c condition) broken(cause error) error {
	what := pikokms.ErrChanged
	if c.absent {
		what = fs.ErrExist
	}
	if cause == nil {
		return what
	}
	return fmt.Errorf("%w: %w", what, cause)
}

// check returns an error if the condition does not hold now.
func (s *Storage) check(ctx context.Context, key string, c condition) error {
	now, err := s.Stat(ctx, key)
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case missing && c.absent:
		return nil
	case missing:
		return c.broken(err)
	case err != nil:
		return err
	case c.absent || c.etag != aws.ToString(now.ETag) || c.etag == "" && !c.modTime.Equal(aws.ToTime(now.LastModified)):
		return c.broken(nil)
	}
	return nil
}

// store puts content with the headers of in and the header Expires.
func (s *Storage) store(ctx context.Context, key string, in *s3.PutObjectInput, expires string, c condition, content io.Reader) error {
	in.Bucket, in.Key = &s.bucket, &key
	in.Metadata = transfer.SetHeaderSize(maps.Clone(in.Metadata), transfer.HeaderSizeKey, content)
	sent, isSent := transfer.Remember(content)
	u := &upload{storage: s, in: in, expires: expires, condition: c}
	stored := func() bool { return isSent(func() (io.ReadCloser, error) { return s.Get(ctx, key) }) }
	err := u.put(ctx, lengthOf(content), &checked.Reader{Context: ctx, Source: sent})
	moved, ok := content.(*s3ec.Moved)
	if err == nil && ok && c.any() && !c.absent {
		return s.removeInstruction(ctx, moved, stored)
	}
	if err == nil {
		return nil
	}
	if u.condition.any() && isStatus(err, http.StatusNotImplemented) {
		return fmt.Errorf("%w: %w", ErrNoConditions, err)
	}
	// If an answer is lost, the SDK sends the request again, and S3 refuses it because of what the
	// first one stored. 412 is for a condition, 404 for an object that was deleted or an upload
	// that was completed, and 409 for an object that was deleted or put during the upload (Amazon
	// S3 User Guide, "How to prevent object overwrites with conditional writes").
	refused := isStatus(err, http.StatusPreconditionFailed, http.StatusConflict) || isMissing(err)
	if !u.last || !refused && !errors.Is(err, ErrAnswer) && !isLost(err) {
		return err
	}
	if stored() {
		if ok && c.any() && !c.absent {
			return s.removeInstruction(ctx, moved, stored)
		}
		return nil
	}
	if refused && c.any() {
		if _, missing := s.Stat(ctx, key); c.absent && errors.Is(missing, fs.ErrNotExist) {
			return err // it was deleted meanwhile
		}
		return c.broken(err)
	}
	return err
}

// isLost reports whether a request got no whole answer, or that of a failing server, so that the
// server may still have carried it out. If an answer was cut, the status in err may be 200.
func isLost(err error) bool {
	if _, unanswered := errors.AsType[*smithyhttp.RequestSendError](err); unanswered {
		return true
	}
	answer, ok := errors.AsType[*awshttp.ResponseError](err)
	return ok && (answer.HTTPStatusCode() < http.StatusMultipleChoices || answer.HTTPStatusCode() >= http.StatusInternalServerError)
}

// lengthOf returns the size of content in bytes, or -1 if it is not known.
func lengthOf(content io.Reader) int64 {
	if moved, ok := content.(*s3ec.Moved); ok {
		content = moved.Reader
	}
	switch sized := content.(type) {
	case *s3ec.Content:
		if at, err := sized.Seek(0, io.SeekCurrent); err == nil {
			return sized.Size() - at
		}
	case interface{ ContentLength() (int64, bool) }:
		if n, known := sized.ContentLength(); known {
			return n
		}
	}
	return -1
}
