package blobstorage

import (
	"context"
	"fmt"
	"io"

	"gocloud.dev/blob"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/s3ec"
)

// client finds out whether the S3 Encryption Client wrote an object. It implements s3ec.Stored.
type client struct {
	bucket    *blob.Bucket
	key       string
	isMessage bool // the object begins as a message, so no request is needed
}

func clientOf(bucket *blob.Bucket, key string, start []byte) client {
	return client{bucket, key, header.Sniff(start)}
}

// S3ECHeader implements s3ec.Stored. It makes requests for the object's metadata and for an
// instruction file beside it, unless the object begins as a message.
func (c client) S3ECHeader(ctx context.Context, _ bool) (*s3ec.Header, error) {
	if c.isMessage {
		return nil, nil
	}
	a, err := c.bucket.Attributes(ctx, c.key)
	if err != nil {
		return nil, missing(err)
	}
	return clientHeader(ctx, c.bucket, c.key, a)
}

func clientHeader(ctx context.Context, bucket *blob.Bucket, key string, a *blob.Attributes) (*s3ec.Header, error) {
	h, err := s3ec.Find(a.Metadata, true, key, s3ec.InstructionSuffix, a.Size, func(key string) (io.ReadCloser, error) {
		r, err := bucket.NewReader(ctx, key, nil)
		if err != nil {
			return nil, missing(err)
		}
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("blobstorage: %s: %w", key, err)
	}
	return h, nil
}

// knownClient reads the first bytes of an object, for which clientHeader was already called. It
// implements s3ec.Stored without further requests.
type knownClient struct {
	io.Reader
	header *s3ec.Header
}

// S3ECHeader implements s3ec.Stored.
func (k knownClient) S3ECHeader(context.Context, bool) (*s3ec.Header, error) { return k.header, nil }

// removeInstruction removes the instruction file of an object that was moved, after it has read
// back the new object.
func (s *Storage) removeInstruction(ctx context.Context, key string, moved *s3ec.Moved, isSent func(open func() (io.ReadCloser, error)) bool) error {
	name := moved.Content.Header.Instruction
	if name == "" {
		return nil
	}
	if !isSent(func() (io.ReadCloser, error) { return s.bucket.NewReader(ctx, key, s.reading) }) {
		return fmt.Errorf("blobstorage: %s: %w: the new object is not read back as it was sent; its instruction file %s stays", key, ErrAnswer, name)
	}
	return missing(s.bucket.Delete(ctx, name))
}
