package blobstorage

import (
	"bufio"
	"context"
	"errors"
	"io"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/transfer"
)

// reader is a driver.Reader.
type reader struct {
	io.Reader
	io.Closer
	attributes driver.ReaderAttributes
	as         func(any) bool
}

func (r *reader) Attributes() *driver.ReaderAttributes { return &r.attributes }
func (r *reader) As(i any) bool                        { return r.as(i) }

// Download implements driver.Downloader.
func (r *reader) Download(w io.Writer) error {
	_, err := io.Copy(w, r.Reader)
	return err
}

func (b *bucket) NewRangeReader(ctx context.Context, key string, offset, length int64, options *driver.ReaderOptions) (driver.Reader, error) {
	inner := &blob.ReaderOptions{BeforeRead: options.BeforeRead}
	if offset == 0 && length < 0 {
		return b.newReader(ctx, key, inner)
	}
	return b.newRangeReader(ctx, key, offset, length, inner)
}

// opened is the original of a stored object, opened for random access.
type opened struct {
	pikokms.SizedReaderAt
	stored *object
}

func (b *bucket) open(ctx context.Context, key string, options *blob.ReaderOptions) (*opened, error) {
	stored, err := open(ctx, b.inner, key, options)
	if err != nil {
		return nil, err
	}
	content, err := b.host.OpenObject(ctx, key, stored)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	return &opened{content, stored}, nil
}

func (b *bucket) newRangeReader(ctx context.Context, key string, offset, length int64, options *blob.ReaderOptions) (driver.Reader, error) {
	content, err := b.open(ctx, key, options)
	if err != nil {
		return nil, err
	}
	stored, size := content.stored, content.Size()
	offset = min(offset, size)
	if length < 0 || length > size-offset {
		length = size - offset
	}
	// The fetch takes the range, the overhead of its frames, and the two frames at its ends.
	stored.Expect(length + length>>10 + 2*header.DefaultFrameLength)
	return &reader{
		Reader:     io.NewSectionReader(content, offset, length),
		Closer:     stored,
		attributes: driver.ReaderAttributes{ContentType: stored.contentType, ModTime: stored.modTime, Size: size},
		as:         stored.as,
	}, nil
}

// newReader reads a whole object as a stream.
func (b *bucket) newReader(ctx context.Context, key string, options *blob.ReaderOptions) (driver.Reader, error) {
	stored, err := b.inner.NewReader(ctx, key, options)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(transfer.NewReader(stored), probe)
	start, _ := buffered.Peek(probe)
	if !header.Sniff(start) && b.host.AllowsPlaintext() {
		if err := refuseClientEncrypted(ctx, b.inner, key); err != nil {
			return nil, errors.Join(err, stored.Close())
		}
	}
	// An object without random access can't be sought, and its size is not known.
	if isSeekable(start) {
		if err := stored.Close(); err != nil {
			return nil, err
		}
		return b.newRangeReader(ctx, key, 0, -1, options)
	}
	content, size, err := b.host.DecryptObject(ctx, key, buffered, stored.Size())
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	return &reader{
		Reader:     content,
		Closer:     stored,
		attributes: driver.ReaderAttributes{ContentType: stored.ContentType(), ModTime: stored.ModTime(), Size: size},
		as:         stored.As,
	}, nil
}
