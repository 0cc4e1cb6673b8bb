// Package s3storage makes an S3 bucket a storage of package pikokms, with AWS's SDK:
//
//	upload    host ── frames sealed side by side ── parts, five at once ── bucket
//	download  host ── one GET, or one for each range ── bucket
//
// It uploads what the host gives it, which is ciphertext, and computes checksums of that. Package
// blobstorage does the same for every bucket of gocloud.dev, one part after the other.
//
// What S3 answers is checked. A listing is whole, an upload is there, and a range is the one that
// was asked for, or there is an error that holds [ErrAnswer].
package s3storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms"
	"piko.sh/pikokms/s3ec"
)

// Storage is a bucket as a pikokms.RangeStorage and a pikokms.ConditionalStorage: its objects can
// be read in ranges, and replaced on the condition that they are unchanged. It is safe for
// concurrent use.
//
// Errors hold fs.ErrNotExist if there is no such object. Those of S3 hold the SDK's, such as a
// smithy.APIError.
type Storage struct {
	client      *s3.Client
	bucket      string
	partSize    int64
	concurrency int
	soleWriter  bool
	allowed     map[string]bool // the kinds of losses that a replacement may have
	instruction string          // what ends the keys of instruction files
	features    features
}

var (
	_ pikokms.RangeStorage       = (*Storage)(nil)
	_ pikokms.ConditionalStorage = (*Storage)(nil)
)

// Option is an option of New.
type Option func(*Storage)

// WithParts sets the size of the parts of an upload in bytes, which is 8 MiB otherwise, and how
// many of them are uploaded at once, which is 5 otherwise. S3 takes no parts under 5 MiB.
func WithParts(size int64, concurrency int) Option {
	return func(s *Storage) { s.partSize, s.concurrency = max(size, minPartSize), max(concurrency, 1) }
}

// WithSoleWriter is for services without conditional writes, where nothing else writes to the
// bucket meanwhile. Replace, PutIf and PutNew then check their condition before they write. A write
// of somebody else between the two is lost.
func WithSoleWriter() Option {
	return func(s *Storage) { s.soleWriter = true }
}

// WithAllowedLosses permits replacing objects that have something which the replacement can't have.
// The kinds are those of [Loss]. Tags and locks that can be read are still kept. An access control
// list never is, so Replace does not ask for it then.
func WithAllowedLosses(kinds ...string) Option {
	return func(s *Storage) {
		for _, kind := range kinds {
			s.allowed[kind] = true
		}
	}
}

// New returns the bucket of that name as a storage. The name may be the ARN of an access point.
//
// Content of the size of two parts or more is uploaded in parts, several of them at once. Such an
// upload takes (concurrency + 1) × part size of memory. S3 allows 10,000 parts. If the size of an
// object is known beforehand, as by message.EncryptReader.ContentLength, the parts are as large as
// it needs. Otherwise they grow during the upload.
//
// The client's options decide whether requests and answers have checksums. Requester Pays buckets
// of other accounts demand a client whose requests have the header X-Amz-Request-Payer, by
// s3.WithAPIOptions(smithyhttp.SetHeaderValue("X-Amz-Request-Payer", "requester")).
func New(client *s3.Client, bucket string, options ...Option) *Storage {
	s := &Storage{client: client, bucket: bucket, partSize: defaultPartSize, concurrency: defaultConcurrency, allowed: make(map[string]bool), instruction: s3ec.InstructionSuffix}
	for _, o := range options {
		o(s)
	}
	return s
}

var (
	// ErrAnswer means that an answer can't be S3's: a page of a listing is missing, an upload may
	// not be stored, or a range is not the one that was requested.
	ErrAnswer = errors.New("the service did not answer as S3 does")
	// ErrNoConditions means that the service can't write on a condition, or that there is no ETag
	// to make one of. WithSoleWriter does without.
	ErrNoConditions = errors.New("the service has no conditional writes")
)

// failed adds to err what was being done. The error holds fs.ErrNotExist if there is no such
// object.
func (s *Storage) failed(doing, key string, err error) error {
	if isMissing(err) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return s.named(doing, key, err)
}

// named adds to err what was being done, and the bucket's Region if S3 names it as another one.
func (s *Storage) named(doing, key string, err error) error {
	if region := headerOf(err, "X-Amz-Bucket-Region"); region != "" && region != s.client.Options().Region {
		err = fmt.Errorf("the bucket is in Region %s, and was asked for in %s: %w", region, s.client.Options().Region, err)
	}
	return fmt.Errorf("s3 storage: %s s3://%s/%s: %w", doing, s.bucket, onOneLine(key), err)
}

// onOneLine returns a key for a terminal or a log, quoted if it has control characters.
func onOneLine(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) {
		key = strconv.Quote(key)
	}
	return key
}

// isMissing reports whether err means that the object is missing. A missing bucket is a mistake of
// the configuration instead. S3's answer distinguishes the two, but can't be parsed if the key has
// a control character. A version that is a delete marker answers 405.
func isMissing(err error) bool {
	if isCode(err, "NoSuchBucket") {
		return false
	}
	return isStatus(err, http.StatusNotFound) || headerOf(err, "X-Amz-Delete-Marker") == "true"
}

func isCode(err error, codes ...string) bool {
	answer, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	for _, code := range codes {
		if answer.ErrorCode() == code {
			return true
		}
	}
	return false
}

func isStatus(err error, statuses ...int) bool {
	answer, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok {
		return false
	}
	for _, status := range statuses {
		if answer.HTTPStatusCode() == status {
			return true
		}
	}
	return false
}

// headerOf returns a header of the answer that err is about.
func headerOf(err error, name string) string {
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok && answer.Response != nil && answer.Response.Response != nil {
		return answer.Response.Header.Get(name)
	}
	return ""
}

// GetVersion returns an object and its version, which holds the ETag and all that the object has
// besides its content.
func (s *Storage) GetVersion(ctx context.Context, key string) (content io.ReadCloser, version string, err error) {
	v, err := s.OpenVersion(ctx, key, "")
	if err != nil {
		return nil, "", err
	}
	text, err := json.Marshal(v.original.found)
	if err != nil {
		return nil, "", s.failed("get", key, errors.Join(err, v.Body.Close()))
	}
	return v.Body, string(text), nil
}

// Get returns an object's content, with one request.
func (s *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	v, err := s.OpenVersion(ctx, key, "")
	if err != nil {
		return nil, err
	}
	return v.Body, nil
}

// Stat describes an object as a listing would, without its content. The error holds fs.ErrNotExist
// if there is no such object, and also if there is no such bucket: S3's answer is the same.
func (s *Storage) Stat(ctx context.Context, key string) (s3types.Object, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err == nil && (head.ContentLength == nil || head.ETag == nil && head.LastModified == nil) {
		err = fmt.Errorf("%w: it states no size, or neither an ETag nor a time", ErrAnswer)
	}
	if err != nil {
		return s3types.Object{}, s.failed("stat", key, err)
	}
	return s3types.Object{Key: &key, Size: head.ContentLength, LastModified: head.LastModified, ETag: head.ETag}, nil
}

// Delete removes an object. It makes two requests, since S3 does not report a missing object when
// it deletes one.
func (s *Storage) Delete(ctx context.Context, key string) error {
	_, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err == nil {
		_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
	}
	if err != nil {
		return s.failed("delete", key, err)
	}
	return nil
}
