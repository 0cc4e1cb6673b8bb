package s3storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/transfer"
)

// Open opens an object for random access with one request, which fetches the first 4 KiB. Reads
// beyond them make more. If the object was replaced meanwhile, the error of a read holds
// pikokms.ErrChanged. It holds ErrAnswer if the service does not answer with the range.
//
// The object also has the methods S3EncryptionClient and S3ECHeader of Version.
func (s *Storage) Open(ctx context.Context, key string) (pikokms.Object, error) {
	o, err := s.open(ctx, key)
	if err != nil {
		return nil, s.failed("open", key, err)
	}
	return o, nil
}

func (s *Storage) open(ctx context.Context, key string) (_ *object, err error) {
	first, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key, Range: byteRange(0, transfer.ProbeSize)})
	if isStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return s.openEmpty(ctx, key)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.Body.Close()) }()
	if first.ContentRange == nil && first.ContentLength != nil && *first.ContentLength == 0 && checkWhole(first, "") == nil {
		return s.emptyObject(key, first.LastModified, first.Metadata), nil // some services satisfy every range of an empty object
	}
	size, length, err := rangeOf(first, 0, transfer.ProbeSize)
	if err != nil {
		return nil, err
	}
	start := make([]byte, length)
	body := checked.Reader{Context: ctx, Source: first.Body}
	if _, err := body.ReadFull(start); err != nil {
		return nil, cutShort(err)
	}
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		body, err := s.fetch(ctx, key, first, size, offset, length)
		if err != nil {
			return nil, s.failed("read", key, err)
		}
		return body, nil
	}
	opened := &object{transfer.NewRangeObject(size, aws.ToTime(first.LastModified), start, fetch), &client{storage: s, key: key, size: size, metadata: first.Metadata}}
	if s.mayBeInstruction(key, size) {
		whole := make([]byte, size)
		if _, err := opened.ReadAt(whole, 0); err != nil && err != io.EOF {
			return nil, err
		}
		opened.isInstruction = isInstruction(whole)
	}
	return opened, nil
}

// fetch returns a range of the object whose first answer is first.
func (s *Storage) fetch(ctx context.Context, key string, first *s3.GetObjectOutput, size, offset, length int64) (io.ReadCloser, error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key, Range: byteRange(offset, length), IfMatch: first.ETag})
	if isStatus(err, http.StatusPreconditionFailed, http.StatusRequestedRangeNotSatisfiable) {
		err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
	}
	if err != nil {
		return nil, err
	}
	gotSize, gotLength, err := rangeOf(out, offset, length)
	switch {
	case err != nil:
	case gotSize != size || aws.ToString(out.ETag) != aws.ToString(first.ETag) || !aws.ToTime(out.LastModified).Equal(aws.ToTime(first.LastModified)):
		err = pikokms.ErrChanged // a service that ignores conditions gives another object's range
	case gotLength != length:
		err = fmt.Errorf("%w: it gives %d bytes of a range of %d", ErrAnswer, gotLength, length)
	}
	if err != nil {
		return nil, errors.Join(err, out.Body.Close())
	}
	return out.Body, nil
}

// openEmpty opens an empty object, of which S3 refuses every range.
func (s *Storage) openEmpty(ctx context.Context, key string) (*object, error) {
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
	if err != nil {
		return nil, err
	}
	if head.ContentLength == nil || *head.ContentLength != 0 {
		return nil, pikokms.ErrChanged
	}
	return s.emptyObject(key, head.LastModified, head.Metadata), nil
}

func (s *Storage) emptyObject(key string, modTime *time.Time, metadata map[string]string) *object {
	return &object{transfer.NewRangeObject(0, aws.ToTime(modTime), nil, nil), &client{storage: s, key: key, metadata: metadata}}
}

func byteRange(offset, length int64) *string {
	return aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
}

// rangeOf returns the size of an object and the length of the range that an answer has, which was
// asked for from offset, with this length at most. Content-Range is as in "bytes 0-4095/10000" (RFC
// 9110, section 14.4).
func rangeOf(out *s3.GetObjectOutput, offset, most int64) (size, length int64, err error) {
	stated := aws.ToString(out.ContentRange)
	if stated == "" {
		return 0, 0, fmt.Errorf("%w: it ignored the range, and states no Content-Range", ErrAnswer)
	}
	var first, last int64
	n, err := fmt.Sscanf(stated+"\n", "bytes %d-%d/%d\n", &first, &last, &size)
	switch {
	case n < 3 || err != nil || first < 0 || last < first || size <= last:
		return 0, 0, fmt.Errorf("%w: it has Content-Range %.100q, which does not tell the object's size", ErrAnswer, stated)
	case first != offset || last != min(offset+most, size)-1:
		return 0, 0, fmt.Errorf("%w: asked for %d bytes from %d, it gives %.100q", ErrAnswer, most, offset, stated)
	case out.ContentLength != nil && *out.ContentLength != last-first+1:
		return 0, 0, fmt.Errorf("%w: it has %d bytes for Content-Range %.100q", ErrAnswer, *out.ContentLength, stated)
	case out.ETag == nil && out.LastModified == nil:
		return 0, 0, fmt.Errorf("%w: it states neither an ETag nor a time", ErrAnswer)
	}
	return size, last - first + 1, nil
}

// cutShort turns the end of an answer that ended too early into io.ErrUnexpectedEOF.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// object is an open object.
type object struct {
	*transfer.RangeObject
	*client
}
