package encrypted

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3response"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/transfer"
)

const (
	// largeObject is the size in bytes from which on a joined object is uploaded to another S3 in
	// parts, several at a time. S3 takes at most 5 GiB in one request.
	largeObject = 64 << 20
	usualPart   = 16 << 20
	atATime     = 4 // parts of one object, and one more is read meanwhile

	// maxJoining bounds the bytes of parts that are in memory. An object of more than 660 GB has parts
	// that are too long for five of them, so fewer are in memory, and two at least.
	maxJoining = 320 << 20
)

// putParts stores a large object in the S3 behind, by parts of the ciphertext.
func (b *Backend) putParts(ctx context.Context, in s3response.PutObjectInput, length int64) (out s3response.PutObjectOutput, err error) {
	size := max(transfer.PartSize(length), usualPart)
	most := min(max(maxJoining/size-1, 1), atATime)
	memory := min(int64(most+1)*int64(size), maxJoining)
	if err := b.joining.Acquire(ctx, memory); err != nil {
		return out, err
	}
	defer b.joining.Release(memory)
	return b.putMultipart(ctx, in, func(id *string) ([]types.CompletedPart, error) { return b.sendParts(ctx, in, id, size, most) })
}

// putMultipart stores an object in the S3 behind as an upload whose parts send uploads.
func (b *Backend) putMultipart(ctx context.Context, in s3response.PutObjectInput, send func(id *string) ([]types.CompletedPart, error)) (out s3response.PutObjectOutput, err error) {
	begun, err := b.inner.CreateMultipartUpload(ctx, s3response.CreateMultipartUploadInput{
		Bucket: in.Bucket, Key: in.Key, Metadata: in.Metadata, Tagging: in.Tagging,
		ContentType: in.ContentType, ContentEncoding: in.ContentEncoding, ContentDisposition: in.ContentDisposition, ContentLanguage: in.ContentLanguage,
		CacheControl: in.CacheControl, Expires: in.Expires, WebsiteRedirectLocation: in.WebsiteRedirectLocation,
	})
	if err != nil {
		return out, err
	}
	id := &begun.UploadId
	defer func() {
		if err != nil {
			abort := context.WithoutCancel(ctx)
			err = errors.Join(err, b.inner.AbortMultipartUpload(abort, &s3.AbortMultipartUploadInput{Bucket: in.Bucket, Key: in.Key, UploadId: id}))
		}
	}()
	parts, err := send(id)
	if err != nil {
		return out, err
	}
	done, version, err := b.inner.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: in.Bucket, Key: in.Key, UploadId: id, IfMatch: in.IfMatch, IfNoneMatch: in.IfNoneMatch,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return s3response.PutObjectOutput{ETag: aws.ToString(done.ETag), VersionID: version}, err
}

// sendParts uploads the parts of an object, most at a time.
func (b *Backend) sendParts(ctx context.Context, in s3response.PutObjectInput, id *string, size, most int) (parts []types.CompletedPart, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(most)
	buffers := sync.Pool{New: func() any { return new(make([]byte, size)) }}
	var mu sync.Mutex
	for number := int32(1); number < math.MaxInt32; number++ {
		buffer := buffers.Get().(*[]byte)
		n, err := io.ReadFull(in.Body, *buffer)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, errors.Join(err, group.Wait())
		}
		if n == 0 {
			break
		}
		group.Go(func() error {
			defer buffers.Put(buffer)
			length := int64(n)
			var sent *s3.UploadPartOutput
			err := b.catchPanic("upload a part", func() (err error) {
				sent, err = b.inner.UploadPart(ctx, &s3.UploadPartInput{
					Bucket: in.Bucket, Key: in.Key, UploadId: id, PartNumber: &number, Body: bytes.NewReader((*buffer)[:n]), ContentLength: &length,
				})
				return err
			})
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for len(parts) < int(number) {
				parts = append(parts, types.CompletedPart{})
			}
			parts[number-1] = types.CompletedPart{ETag: sent.ETag, PartNumber: &number}
			return nil
		})
		if n < size || ctx.Err() != nil {
			break
		}
	}
	return parts, group.Wait()
}
