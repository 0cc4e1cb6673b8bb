// Package s3storage is an S3 bucket as a storage of package pikokms, on AWS's SDK and its transfer manager:
//
//	upload    host ── frames sealed side by side ── parts of 8 MiB, five at once ── bucket
//	download  host ── one GET, or one for each range ── bucket
//
// What it uploads and checks sums of is what the host gives it, which is ciphertext. Package blobstorage does the same for
// every bucket of gocloud.dev, one part after the other.
package s3storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms"
)

// ErrReplaced means that an open object was replaced by another one, so that its ranges are gone.
var ErrReplaced = errors.New("object was replaced while it was being read")

// Storage is a bucket as a pikokms.RangeStorage. It is safe for concurrent use.
type Storage struct {
	client   *s3.Client
	bucket   string
	transfer *transfermanager.Client
}

var _ pikokms.RangeStorage = (*Storage)(nil)

// abortTimeout is what giving up a failed upload may take, also after its context has ended.
const abortTimeout = 30 * time.Second

// New returns the bucket of that name as a storage. The options are those of uploads: of more than MultipartUploadThreshold (16 MiB
// by default), Concurrency parts (5) of PartSizeBytes (8 MiB) are uploaded at once, for which an upload takes
// (Concurrency + 1) × PartSizeBytes of memory, and up to MultipartUploadThreshold before it begins. Parts grow so that 10,000 of
// them hold the object, if its size is known beforehand: message.EncryptReader.ContentLength says when.
func New(client *s3.Client, bucket string, options ...func(*transfermanager.Options)) *Storage {
	abort := func(o *transfermanager.Options) { o.FailTimeout = abortTimeout }
	return &Storage{client, bucket, transfermanager.New(client, append([]func(*transfermanager.Options){abort}, options...)...)}
}

// failed says what was done when err came of it. The error holds fs.ErrNotExist where there is no such object.
func (s *Storage) failed(doing, key string, err error) error {
	// A missing bucket is a mistake of the configuration, where S3 tells the two apart.
	if answer, ok := errors.AsType[smithy.APIError](err); ok && isStatus(err, http.StatusNotFound) && answer.ErrorCode() != "NoSuchBucket" {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return fmt.Errorf("s3 storage: %s s3://%s/%s: %w", doing, s.bucket, key, err)
}

func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*awshttp.ResponseError](err)
	return ok && answer.HTTPStatusCode() == status
}

// Put implements pikokms.Storage. S3 shows an object once it is whole, and its content type is application/octet-stream; each
// part, and the whole, has a checksum that S3 verifies. After an error it deletes the parts that were uploaded already; where that
// fails, too, a lifecycle rule for incomplete uploads does. If S3's last answer is lost, the object may be there.
func (s *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	upload := &transfermanager.UploadObjectInput{Bucket: &s.bucket, Key: &key, Body: content, ContentType: aws.String("application/octet-stream")}
	if message, ok := content.(interface{ ContentLength() (int64, bool) }); ok {
		if n, known := message.ContentLength(); known {
			upload.ContentLength = &n
		}
	}
	if _, err := s.transfer.UploadObject(ctx, upload); err != nil {
		return s.failed("put", key, err)
	}
	return nil
}

// Get implements pikokms.Storage, with one request.
func (s *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		return nil, s.failed("get", key, err)
	}
	return out.Body, nil
}

// Delete implements pikokms.Storage, with two requests: S3 deletes what is not there without a word.
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
		pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", s.failed("list", prefix, err))
				return
			}
			for _, object := range page.Contents {
				if !yield(aws.ToString(object.Key), nil) {
					return
				}
			}
		}
	}
}

// probe is how much of an object is fetched first: a header under a KMS key, or the whole of a small object.
const probe = 4 << 10

// Open implements pikokms.RangeStorage. It makes one request; reads make more, but for an object of up to 4 KiB. The error of a read
// holds ErrReplaced once another object was put in the place of this one.
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
			err = fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		if err != nil {
			return nil, s.failed("read", key, err)
		}
		return out.Body, nil
	}
	return &object{pikokms.NewRangeReaderAt(size, start, fetch), aws.ToTime(first.LastModified)}, nil
}

// openEmpty opens an object of which there are no ranges, since it has no bytes.
func (s *Storage) openEmpty(ctx context.Context, key string) (*object, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		return nil, err
	}
	if aws.ToInt64(head.ContentLength) > 0 {
		return nil, ErrReplaced
	}
	return &object{pikokms.NewRangeReaderAt(0, nil, nil), aws.ToTime(head.LastModified)}, nil
}

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}

// wholeSize returns the size of the object from a Content-Range such as "bytes 0-4095/10000" (RFC 9110, section 14.4).
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
