package blobstorage

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
)

// counted passes requests on to a bucket. It counts those that read, and the bytes that they
// return.
type counted struct {
	driver.Bucket   // nil, since only the methods below are called
	inner           *blob.Bucket
	requests, bytes atomic.Int64
}

func (c *counted) Close() error                           { return c.inner.Close() }
func (c *counted) As(i any) bool                          { return c.inner.As(i) }
func (c *counted) ErrorCode(err error) gcerrors.ErrorCode { return gcerrors.Code(err) }

func (c *counted) NewRangeReader(ctx context.Context, key string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	c.requests.Add(1)
	r, err := c.inner.NewRangeReader(ctx, key, offset, length, nil)
	if err != nil {
		return nil, err
	}
	return &countedReader{r, c}, nil
}

func (c *counted) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	c.requests.Add(1)
	a, err := c.inner.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	return &driver.Attributes{ContentType: a.ContentType, Metadata: a.Metadata, ModTime: a.ModTime, ETag: a.ETag, Size: a.Size}, nil
}

func (c *counted) NewTypedWriter(ctx context.Context, key, contentType string, o *driver.WriterOptions) (driver.Writer, error) {
	return c.inner.NewWriter(ctx, key, &blob.WriterOptions{ContentType: contentType, DisableContentTypeDetection: true, Metadata: o.Metadata})
}

func (c *counted) ListPaged(ctx context.Context, o *driver.ListOptions) (*driver.ListPage, error) {
	objects, _, err := c.inner.ListPage(ctx, blob.FirstPageToken, 1000, &blob.ListOptions{Prefix: o.Prefix, BeforeList: o.BeforeList})
	page := &driver.ListPage{}
	for _, object := range objects {
		page.Objects = append(page.Objects, &driver.ListObject{Key: object.Key, Size: object.Size, ModTime: object.ModTime})
	}
	return page, err
}

type countedReader struct {
	*blob.Reader
	c *counted
}

func (r *countedReader) Attributes() *driver.ReaderAttributes {
	return &driver.ReaderAttributes{ContentType: r.ContentType(), ModTime: r.ModTime(), Size: r.Size()}
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.c.bytes.Add(int64(n))
	return n, err
}

// newMemory returns an encrypting bucket, the bucket in memory that it stores to, and the count of
// what it reads from that.
func newMemory(t *testing.T, options ...pikokms.Option) (count *counted, stored, encrypting *blob.Bucket) {
	t.Helper()
	stored = memblob.OpenBucket(nil)
	count = &counted{inner: stored}
	encrypting, err := Encrypt(blob.NewBucket(count), underKey(t, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, encrypting.Close()) })
	return count, stored, encrypting
}
