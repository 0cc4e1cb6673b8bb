package s3storage

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/internal/checked"
)

const (
	// These are the transfer manager's defaults, in bytes except for the concurrency.
	defaultThreshold   = 16 << 20
	defaultPartSize    = 8 << 20
	defaultConcurrency = 5

	// growth makes parts grow: each part is at least 1/growth of what was uploaded before it. So
	// 9,400 parts hold 5 TiB. S3 allows 10,000 parts of up to 5 GiB (Amazon S3 User Guide, "Amazon
	// S3 multipart upload limits").
	growth      = 1300
	maxPartSize = 5 << 30
)

// partSize returns the size in bytes of the next part, after sent bytes of an object.
func partSize(first, sent int64) int64 {
	const step = 1 << 20 // so that buffers have only a few sizes
	grown := (sent/growth + step - 1) / step * step
	return min(max(first, grown), maxPartSize)
}

// putGrowing puts content of unknown size, as in says.
func (s *Storage) putGrowing(ctx context.Context, in *s3.PutObjectInput, content *checked.Reader) error {
	first := cmp.Or(s.upload.PartSizeBytes, defaultPartSize)
	threshold := max(cmp.Or(s.upload.MultipartUploadThreshold, defaultThreshold), first)
	// Small content becomes one request, and takes no more memory than it needs.
	start, err := io.ReadAll(io.LimitReader(content, threshold))
	if err != nil {
		return err
	}
	if int64(len(start)) < threshold {
		in.Body, in.ContentLength = bytes.NewReader(start), aws.Int64(int64(len(start)))
		_, err := s.client.PutObject(ctx, in)
		return err
	}
	create := createLike(in)
	if s.upload.RequestChecksumCalculation != aws.RequestChecksumCalculationWhenRequired {
		create.ChecksumAlgorithm = s3types.ChecksumAlgorithmCrc32
	}
	created, err := s.client.CreateMultipartUpload(ctx, create)
	if err != nil {
		return err
	}
	u := &multipart{storage: s, key: *in.Key, id: created.UploadId, algorithm: create.ChecksumAlgorithm}
	if err := u.send(ctx, start, first, content); err != nil {
		u.abort(ctx)
		return err
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: in.Bucket, Key: in.Key, UploadId: u.id, IfMatch: in.IfMatch, MultipartUpload: &s3types.CompletedMultipartUpload{Parts: u.parts},
	})
	if err != nil {
		u.abort(ctx)
	}
	return err
}

// createLike returns how the upload in parts of an object begins that is put as in says.
func createLike(in *s3.PutObjectInput) *s3.CreateMultipartUploadInput {
	return &s3.CreateMultipartUploadInput{
		Bucket: in.Bucket, Key: in.Key,
		CacheControl: in.CacheControl, ContentDisposition: in.ContentDisposition, ContentEncoding: in.ContentEncoding,
		ContentLanguage: in.ContentLanguage, ContentType: in.ContentType, Expires: in.Expires, Metadata: in.Metadata,
		StorageClass: in.StorageClass, Tagging: in.Tagging, WebsiteRedirectLocation: in.WebsiteRedirectLocation,
		ServerSideEncryption: in.ServerSideEncryption, SSEKMSKeyId: in.SSEKMSKeyId, BucketKeyEnabled: in.BucketKeyEnabled,
		ObjectLockLegalHoldStatus: in.ObjectLockLegalHoldStatus, ObjectLockMode: in.ObjectLockMode,
		ObjectLockRetainUntilDate: in.ObjectLockRetainUntilDate, ObjectLockEventHold: in.ObjectLockEventHold,
		ObjectLockEventHoldDurationDays: in.ObjectLockEventHoldDurationDays, ObjectLockEventHoldDurationYears: in.ObjectLockEventHoldDurationYears,
	}
}

// multipart is an upload in parts.
type multipart struct {
	storage   *Storage
	key       string
	id        *string
	algorithm s3types.ChecksumAlgorithm

	mu    sync.Mutex
	parts []s3types.CompletedPart
}

// send uploads start and then content, several parts at once. The first parts have first bytes.
func (u *multipart) send(ctx context.Context, start []byte, first int64, content *checked.Reader) error {
	limit := cmp.Or(u.storage.upload.Concurrency, defaultConcurrency)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	spare := make(chan []byte, limit)
	content.Context = ctx // if a part fails, reading ends
	sent, part := int64(0), start
	var err error
	for number := int32(1); len(part) > 0; number++ {
		sending := part
		group.Go(func() error {
			err := u.sendPart(ctx, number, sending)
			select {
			case spare <- sending[:cap(sending)]:
			default:
			}
			return err
		})
		sent += int64(len(part))
		if err != nil {
			break
		}
		part, err = u.read(content, spare, partSize(first, sent))
	}
	if err == io.EOF {
		err = nil
	}
	// If a part fails, ctx ends, and so err is only a consequence.
	return cmp.Or(group.Wait(), err)
}

// read reads the next part. Only with an error is it shorter than size.
func (u *multipart) read(content *checked.Reader, spare <-chan []byte, size int64) ([]byte, error) {
	var buffer []byte
	select {
	case buffer = <-spare:
	default:
	}
	if int64(len(buffer)) < size {
		buffer = make([]byte, size)
	}
	n, err := content.ReadFull(buffer[:size])
	if err != nil && err != io.EOF {
		n = 0
	}
	return buffer[:n], err
}

func (u *multipart) sendPart(ctx context.Context, number int32, part []byte) error {
	out, err := u.storage.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &u.storage.bucket, Key: &u.key, UploadId: u.id, PartNumber: &number,
		Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))), ChecksumAlgorithm: u.algorithm,
	})
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, s3types.CompletedPart{PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	slices.SortFunc(u.parts, func(a, b s3types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
	return nil
}

// abort deletes the uploaded parts. It returns no error, since the caller returns the one before.
func (u *multipart) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_, _ = u.storage.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &u.storage.bucket, Key: &u.key, UploadId: u.id})
}
