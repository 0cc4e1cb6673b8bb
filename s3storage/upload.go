package s3storage

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/internal/checked"
)

const (
	// These are the defaults of AWS's transfer manager. The part size is in bytes.
	defaultPartSize    = 8 << 20
	defaultConcurrency = 5

	// These are S3's limits (Amazon S3 User Guide, "Amazon S3 multipart upload limits"). Sizes are
	// in bytes.
	minPartSize = 5 << 20
	maxPartSize = 5 << 30
	maxParts    = 10_000

	// growth makes parts grow: each part is at least 1/growth of what was uploaded before it. So
	// 9,400 parts hold 5 TiB.
	growth   = 1300
	sizeStep = 1 << 20 // part sizes are multiples of it, so that buffers have only a few sizes

	// abortTimeout is how long deleting the parts of a failed upload may take, even after its
	// context has ended.
	abortTimeout = 30 * time.Second
	abortPause   = 50 * time.Millisecond
)

// growingPart returns the size in bytes of the next part, after sent bytes of an object.
func growingPart(first, sent int64) int64 {
	return min(max(first, ceil(sent, growth)), maxPartSize)
}

// ceil returns the smallest multiple of step that is n/d or more.
func ceil(n, d int64) int64 { return (n/d + sizeStep) / sizeStep * sizeStep }

// upload is an object that is put.
type upload struct {
	storage   *Storage
	in        *s3.PutObjectInput
	expires   string // the header
	condition condition
	last      bool // the request was made that makes the object appear

	id    *string // of an upload in parts
	mu    sync.Mutex
	parts []s3types.CompletedPart
}

// put puts content of size bytes, or of unknown size if that is negative.
func (u *upload) put(ctx context.Context, size int64, content *checked.Reader) error {
	u.in.ChecksumAlgorithm = u.checksum()
	part := u.storage.partSize
	next := func(sent int64) int64 { return growingPart(part, sent) }
	if size >= 0 {
		part = max(part, ceil(size, maxParts))
		next = func(int64) int64 { return part }
	}
	threshold := 2 * part
	if size >= threshold {
		threshold = part
	}
	// Small content becomes one request, and takes no more memory than it needs.
	start, err := readAll(io.LimitReader(content, threshold), min(size, threshold))
	if err != nil {
		return err
	}
	if int64(len(start)) < threshold {
		return u.putOnce(ctx, start)
	}
	return u.putParts(ctx, start, next, content)
}

// readAll reads content of about size bytes, or of unknown size if that is negative.
func readAll(content io.Reader, size int64) ([]byte, error) {
	if size < 0 {
		return io.ReadAll(content)
	}
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	_, err := b.ReadFrom(content)
	return b.Bytes(), err
}

// checksum returns the algorithm of the checksums that are sent: the object's own one if it
// replaces another, and none if the client sends only what is required. S3 requires them of locked
// objects.
func (u *upload) checksum() s3types.ChecksumAlgorithm {
	required := u.in.ObjectLockMode != "" || u.in.ObjectLockLegalHoldStatus != ""
	if u.storage.client.Options().RequestChecksumCalculation == aws.RequestChecksumCalculationWhenRequired && !required {
		return ""
	}
	return cmp.Or(u.in.ChecksumAlgorithm, s3types.ChecksumAlgorithmCrc32)
}

// options sets the header Expires, which the SDK takes only as a date.
func (u *upload) options(o *s3.Options) {
	if u.expires != "" {
		o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("Expires", u.expires))
	}
}

// conditions checks the condition and returns it for the request that makes the object appear.
func (u *upload) conditions(ctx context.Context) (ifMatch, ifNoneMatch *string, err error) {
	if !u.condition.any() {
		return nil, nil, nil
	}
	if u.storage.mayIgnore(u.condition) {
		if err := u.storage.check(ctx, *u.in.Key, u.condition); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case u.storage.soleWriter:
	case u.condition.absent:
		ifNoneMatch = aws.String("*")
	default:
		ifMatch = &u.condition.etag
	}
	return ifMatch, ifNoneMatch, nil
}

// putOnce puts content in one request.
func (u *upload) putOnce(ctx context.Context, content []byte) (err error) {
	if u.in.IfMatch, u.in.IfNoneMatch, err = u.conditions(ctx); err != nil {
		return err
	}
	u.in.Body, u.in.ContentLength = bytes.NewReader(content), aws.Int64(int64(len(content)))
	u.last = true
	out, err := u.storage.client.PutObject(ctx, u.in, u.options)
	if err == nil && aws.ToString(out.ETag) == "" {
		err = fmt.Errorf("%w: its answer to the upload has no ETag, and the object is not there as it was sent", ErrAnswer)
	}
	if err == nil && u.in.IfNoneMatch != nil && u.storage.mayIgnore(u.condition) && u.storage.features.newObjects.begin() {
		u.in.Body = bytes.NewReader(content)
		_, again := u.storage.client.PutObject(ctx, u.in, u.options)
		u.storage.features.newObjects.honoured.Store(isStatus(again, http.StatusPreconditionFailed))
	}
	return err
}

// mayIgnore reports whether the service may ignore a condition, as others than AWS's do.
func (s *Storage) mayIgnore(c condition) bool {
	return s.soleWriter || s.client.Options().BaseEndpoint != nil && !(c.absent && s.features.newObjects.honoured.Load())
}

// proof records whether a service was seen to refuse a write because of its condition. That is
// tried once: an object that was just put as new is put as new again, with the same content.
type proof struct{ asked, honoured atomic.Bool }

func (p *proof) begin() bool { return !p.asked.Swap(true) }

// putParts puts start and then content in parts.
func (u *upload) putParts(ctx context.Context, start []byte, size func(sent int64) int64, content *checked.Reader) error {
	created, err := u.storage.client.CreateMultipartUpload(ctx, u.create(), u.options)
	if err == nil && aws.ToString(created.UploadId) == "" {
		err = fmt.Errorf("%w: it names no upload", ErrAnswer)
	}
	if err != nil {
		return err
	}
	u.id = created.UploadId
	err = u.send(ctx, start, size, content)
	if err == nil {
		err = u.complete(ctx)
	}
	if err != nil {
		u.abort(ctx)
	}
	return err
}

// create returns the request that begins an upload in parts.
func (u *upload) create() *s3.CreateMultipartUploadInput {
	in := u.in
	return &s3.CreateMultipartUploadInput{
		Bucket: in.Bucket, Key: in.Key,
		CacheControl: in.CacheControl, ContentDisposition: in.ContentDisposition, ContentEncoding: in.ContentEncoding,
		ContentLanguage: in.ContentLanguage, ContentType: in.ContentType, Metadata: in.Metadata,
		StorageClass: in.StorageClass, Tagging: in.Tagging, WebsiteRedirectLocation: in.WebsiteRedirectLocation,
		ServerSideEncryption: in.ServerSideEncryption, SSEKMSKeyId: in.SSEKMSKeyId, BucketKeyEnabled: in.BucketKeyEnabled,
		ObjectLockLegalHoldStatus: in.ObjectLockLegalHoldStatus, ObjectLockMode: in.ObjectLockMode,
		ObjectLockRetainUntilDate: in.ObjectLockRetainUntilDate, ObjectLockEventHold: in.ObjectLockEventHold,
		ObjectLockEventHoldDurationDays: in.ObjectLockEventHoldDurationDays, ObjectLockEventHoldDurationYears: in.ObjectLockEventHoldDurationYears,
		ChecksumAlgorithm: in.ChecksumAlgorithm,
	}
}

// send uploads start and then content, several parts at once. The function size returns the size of
// the next part.
func (u *upload) send(ctx context.Context, start []byte, size func(sent int64) int64, content *checked.Reader) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(u.storage.concurrency)
	spare := make(chan []byte, u.storage.concurrency)
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
		part, err = read(content, spare, size(sent))
	}
	if err == io.EOF {
		err = nil
	}
	// If a part fails, ctx ends, and so err is only a consequence.
	return cmp.Or(group.Wait(), err)
}

// read reads the next part. Only with an error is it shorter than size.
func read(content *checked.Reader, spare <-chan []byte, size int64) ([]byte, error) {
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

func (u *upload) sendPart(ctx context.Context, number int32, part []byte) error {
	out, err := u.storage.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: u.in.Bucket, Key: u.in.Key, UploadId: u.id, PartNumber: &number,
		Body: bytes.NewReader(part), ContentLength: aws.Int64(int64(len(part))), ChecksumAlgorithm: u.in.ChecksumAlgorithm,
	})
	if err == nil && aws.ToString(out.ETag) == "" {
		err = fmt.Errorf("%w: its answer to a part of the upload has no ETag", ErrAnswer)
	}
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, s3types.CompletedPart{
		PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32, ChecksumCRC32C: out.ChecksumCRC32C,
		ChecksumCRC64NVME: out.ChecksumCRC64NVME, ChecksumSHA1: out.ChecksumSHA1, ChecksumSHA256: out.ChecksumSHA256, ChecksumSHA512: out.ChecksumSHA512,
	})
	return nil
}

// complete makes an object of the parts. S3 may answer 200 before it has done so, and its answer
// then holds an error, or nothing.
func (u *upload) complete(ctx context.Context) error {
	ifMatch, ifNoneMatch, err := u.conditions(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(u.parts, func(a, b s3types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
	u.last = true
	out, err := u.storage.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: u.in.Bucket, Key: u.in.Key, UploadId: u.id, IfMatch: ifMatch, IfNoneMatch: ifNoneMatch,
		MultipartUpload: &s3types.CompletedMultipartUpload{Parts: u.parts},
	})
	if err == nil && aws.ToString(out.ETag) == "" {
		err = fmt.Errorf("%w: its answer does not say that the upload is complete, and the object is not there as it was sent", ErrAnswer)
	}
	return err
}

// abort deletes the uploaded parts. It returns no error, since the caller returns an earlier one. A
// part that was under way may still arrive, so the request is to be repeated until S3 knows of no
// such upload (Amazon S3 API Reference, "AbortMultipartUpload").
func (u *upload) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	for range 3 {
		_, err := u.storage.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: u.in.Bucket, Key: u.in.Key, UploadId: u.id})
		if err != nil {
			return
		}
		time.Sleep(abortPause)
	}
}
