// Package s3storage makes an S3 bucket a storage of package pikokms, with AWS's SDK and its
// transfer manager:
//
//	upload    host ── frames sealed side by side ── parts, five at once ── bucket
//	download  host ── one GET, or one for each range ── bucket
//
// It uploads what the host gives it, which is ciphertext, and checksums are of that. Package
// blobstorage does the same for every bucket of gocloud.dev, one part after the other.
package s3storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/checked"
)

// Storage is a bucket as a storage. Its objects can be read in ranges, and replaced on the
// condition that they are unchanged. It is safe for concurrent use.
type Storage struct {
	client   *s3.Client
	bucket   string
	transfer *transfermanager.Client
	upload   transfermanager.Options
}

var (
	_ pikokms.RangeStorage       = (*Storage)(nil)
	_ pikokms.ConditionalStorage = (*Storage)(nil)
)

// abortTimeout is how long deleting the parts of a failed upload may take, even after its context
// has ended.
const abortTimeout = 30 * time.Second

// New returns the bucket of that name as a storage. The options are those of uploads. Content of
// more than MultipartUploadThreshold (by default 16 MiB) is uploaded in parts of PartSizeBytes (8
// MiB), Concurrency (5) of them at once. Such an upload takes (Concurrency + 1) × PartSizeBytes of
// memory. Up to MultipartUploadThreshold bytes are in memory before it begins.
//
// S3 allows 10,000 parts. If the size of an object is known beforehand, as by
// message.EncryptReader.ContentLength, the parts are as large as it needs. Otherwise they grow
// during the upload.
//
// The client's options say whether requests and answers have checksums. If S3 refuses to complete
// an upload, the transfer manager (v0.5.5) says so through package log, too, which slog.SetDefault
// leads to a logger of slog.
func New(client *s3.Client, bucket string, options ...func(*transfermanager.Options)) *Storage {
	defaults := func(o *transfermanager.Options) {
		o.FailTimeout = abortTimeout
		o.RequestChecksumCalculation = client.Options().RequestChecksumCalculation
	}
	options = append([]func(*transfermanager.Options){defaults}, options...)
	s := &Storage{client: client, bucket: bucket, transfer: transfermanager.New(client, options...)}
	for _, o := range options {
		o(&s.upload)
	}
	return s
}

// failed adds to err what was being done. The error holds fs.ErrNotExist if there is no such
// object.
func (s *Storage) failed(doing, key string, err error) error {
	if isMissing(err) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return fmt.Errorf("s3 storage: %s s3://%s/%s: %w", doing, s.bucket, key, err)
}

// isMissing reports whether err means that the object is missing. A missing bucket is a mistake of
// the configuration instead. S3's answer tells the two apart, but can't be parsed if the key has a
// control character.
func isMissing(err error) bool {
	if answer, ok := errors.AsType[smithy.APIError](err); ok && answer.ErrorCode() == "NoSuchBucket" {
		return false
	}
	return isStatus(err, http.StatusNotFound)
}

func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*awshttp.ResponseError](err)
	return ok && answer.HTTPStatusCode() == status
}

// Put implements pikokms.Storage. S3 shows an object once it is complete. Its content type is
// application/octet-stream. Unless the client's options say otherwise, each part and the whole have
// a checksum that S3 verifies. After an error, Put deletes the parts that it has uploaded. In case
// that fails, too, let a lifecycle rule delete incomplete uploads. If S3's last answer is lost, the
// object may have been stored.
func (s *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	if err := s.put(ctx, key, content); err != nil {
		return s.failed("put", key, err)
	}
	return nil
}

const contentType = "application/octet-stream"

// put stores content.
func (s *Storage) put(ctx context.Context, key string, content io.Reader) error {
	body := &checked.Reader{Context: ctx, Source: content}
	if message, ok := content.(interface{ ContentLength() (int64, bool) }); ok {
		if n, known := message.ContentLength(); known {
			_, err := s.transfer.UploadObject(ctx, &transfermanager.UploadObjectInput{
				Bucket: &s.bucket, Key: &key, Body: body, ContentLength: &n, ContentType: aws.String(contentType),
			})
			return err
		}
	}
	return s.putGrowing(ctx, &s3.PutObjectInput{Bucket: &s.bucket, Key: &key, ContentType: aws.String(contentType)}, body)
}

// GetVersion implements pikokms.ConditionalStorage. The version holds the object's ETag, and what
// the object has beside its content.
func (s *Storage) GetVersion(ctx context.Context, key string) (content io.ReadCloser, version string, err error) {
	v, err := s.OpenVersion(ctx, key, "")
	if err != nil {
		return nil, "", err
	}
	text, err := json.Marshal(v.found)
	if err != nil {
		return nil, "", s.failed("get", key, errors.Join(err, v.Close()))
	}
	return v.ReadCloser, string(text), nil
}

// PutIf implements pikokms.ConditionalStorage by the condition If-Match, which AWS has had since
// November 2024. A service without that condition answers with an error or ignores it. If it
// ignores it, what was put meanwhile is lost. The new object keeps what Replace keeps.
func (s *Storage) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	var f found
	if err := json.Unmarshal([]byte(version), &f); err != nil || f.Kept.IfMatch == nil {
		return fmt.Errorf("s3 storage: replace s3://%s/%s: the version %.100q is not one of GetVersion", s.bucket, key, version)
	}
	return s.replace(ctx, key, f, content)
}

// Get implements pikokms.Storage, with one request.
func (s *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	v, err := s.OpenVersion(ctx, key, "")
	if err != nil {
		return nil, err
	}
	return v.ReadCloser, nil
}

// Delete implements pikokms.Storage. It makes two requests, since S3 reports no missing object when
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

// List implements pikokms.Storage, in the order of the keys.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		// Keys may have control characters, most of which XML can't hold, so they are asked for in
		// an encoding.
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, EncodingType: s3types.EncodingTypeUrl})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", s.failed("list", prefix, err))
				return
			}
			for _, object := range page.Contents {
				key, err := decodeKey(page, object)
				if err != nil {
					yield("", s.failed("list", prefix, err))
					return
				}
				if !yield(key, nil) {
					return
				}
			}
		}
	}
}

// decodeKey returns a listed object's key. A service without encodings states none.
func decodeKey(page *s3.ListObjectsV2Output, object s3types.Object) (string, error) {
	key := aws.ToString(object.Key)
	if page.EncodingType != s3types.EncodingTypeUrl {
		return key, nil
	}
	decoded, err := url.QueryUnescape(key)
	if err != nil {
		return "", fmt.Errorf("the listed key %q is not encoded as it says: %w", key, err)
	}
	return decoded, nil
}

// probe is how many bytes of an object are fetched first: enough for a header under a KMS key, or
// for the whole of a small object.
const probe = 4 << 10

// Open implements pikokms.RangeStorage. It makes one request, which fetches the first 4 KiB. Reads
// beyond them make more. If the object was replaced meanwhile, the error of a read holds
// pikokms.ErrChanged.
func (s *Storage) Open(ctx context.Context, key string) (pikokms.StoredObject, error) {
	o, err := s.open(ctx, key)
	if err != nil {
		return nil, s.failed("open", key, err)
	}
	return o, nil
}

func (s *Storage) open(ctx context.Context, key string) (_ *object, err error) {
	first, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key, Range: byteRange(0, probe)})
	if isStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return s.openEmpty(ctx, key)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.Body.Close()) }()
	start, err := io.ReadAll(first.Body)
	if err != nil {
		return nil, err
	}
	size, err := wholeSize(aws.ToString(first.ContentRange))
	if err != nil {
		return nil, err
	}
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key, Range: byteRange(offset, length), IfMatch: first.ETag})
		if isStatus(err, http.StatusPreconditionFailed) {
			err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
		}
		if err != nil {
			return nil, s.failed("read", key, err)
		}
		return out.Body, nil
	}
	return &object{pikokms.NewRangeReaderAt(size, start, fetch), aws.ToTime(first.LastModified)}, nil
}

// openEmpty opens an empty object, of which S3 refuses every range.
func (s *Storage) openEmpty(ctx context.Context, key string) (*object, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		return nil, err
	}
	if aws.ToInt64(head.ContentLength) > 0 {
		return nil, pikokms.ErrChanged
	}
	return &object{pikokms.NewRangeReaderAt(0, nil, nil), aws.ToTime(head.LastModified)}, nil
}

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}

// wholeSize returns the object's size from a Content-Range such as "bytes 0-4095/10000" (RFC 9110,
// section 14.4).
func wholeSize(contentRange string) (int64, error) {
	_, size, _ := strings.Cut(contentRange, "/")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the answer to a range request has Content-Range %q, which does not tell the object's size", contentRange)
	}
	return n, nil
}

// object is an open object.
type object struct {
	*pikokms.RangeReaderAt
	modTime time.Time
}

func (o *object) ModTime() time.Time { return o.modTime }
