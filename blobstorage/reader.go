package blobstorage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"piko.sh/pikokms/s3ec"
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

func (b *bucket) newRangeReader(ctx context.Context, key string, offset, length int64, options *blob.ReaderOptions) (driver.Reader, error) {
	stored, err := open(ctx, b.inner, key, options)
	if err != nil {
		return nil, err
	}
	return b.section(ctx, key, stored, offset, length)
}

// section returns a reader of a range of the plaintext of a stored object. Closing the reader
// closes stored.
func (b *bucket) section(ctx context.Context, key string, stored *object, offset, length int64) (driver.Reader, error) {
	content, err := b.host.OpenObject(ctx, key, stored, nil)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	size := content.Size()
	offset = min(offset, size)
	if length < 0 || length > size-offset {
		length = size - offset
	}
	stored.Expect(length)
	return &reader{
		Reader:     io.NewSectionReader(content, offset, length),
		Closer:     content, // which closes stored
		attributes: driver.ReaderAttributes{ContentType: stored.contentType, ModTime: stored.ModTime(), Size: size},
		as:         stored.as,
	}, nil
}

// closers closes a stored object, and its decrypted content if that must be closed, too.
type closers struct {
	content io.Reader
	stored  io.Closer
}

func (c closers) Close() error {
	if content, ok := c.content.(*s3ec.Content); ok {
		_ = content.Close() // never fails
	}
	return c.stored.Close()
}

// remainder is the rest of the answer to a request for a whole object, after its first bytes. The
// first fetch that begins there reads it instead of making a request.
type remainder struct {
	io.ReadCloser
	taken atomic.Bool
}

// newReader reads a whole object as a stream.
func (b *bucket) newReader(ctx context.Context, key string, options *blob.ReaderOptions) (driver.Reader, error) {
	stored, err := b.inner.NewReader(ctx, key, options)
	if err != nil {
		return nil, err
	}
	peeked := &buffered{Reader: bufio.NewReaderSize(transfer.NewReader(stored), transfer.ProbeSize), Closer: stored}
	start, _ := peeked.Peek(transfer.ProbeSize)
	peeked.client = clientOf(b.inner, key, start)
	if isSeekable(start) { // only random access learns the size of the plaintext
		start = bytes.Clone(start)
		_, _ = peeked.Discard(len(start)) // can't fail, since the bytes are in the buffer
		ranges := rangesOf(ctx, b.inner, key, stored.Size(), stored.ModTime(), options)
		rest := &remainder{ReadCloser: peeked}
		fetch := func(offset, length int64) (io.ReadCloser, error) {
			if offset == int64(len(start)) && !rest.taken.Swap(true) {
				return rest, nil
			}
			return ranges(offset, length)
		}
		o := &object{transfer.NewRangeObject(stored.Size(), stored.ModTime(), start, fetch), peeked.client, stored.ContentType(), stored.As, rest}
		return b.section(ctx, key, o, 0, -1)
	}
	content, size, err := b.host.DecryptObject(ctx, key, peeked, stored.Size(), nil)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	return &reader{
		Reader:     content,
		Closer:     closers{content, stored},
		attributes: driver.ReaderAttributes{ContentType: stored.ContentType(), ModTime: stored.ModTime(), Size: size},
		as:         stored.As,
	}, nil
}
