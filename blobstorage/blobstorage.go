// Package blobstorage encrypts buckets of gocloud.dev/blob: S3, GCS, Azure, folders and memory. It stands on a host of package
// pikokms, which it gives a storage:
//
//	application ── *blob.Bucket of Encrypt ── host: compression, encryption ── *blob.Bucket with the stored objects
//
// Who wants pikokms.Host's own methods on such a bucket uses New. The drivers come by blank imports, as gocloud.dev has it.
package blobstorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
)

// Storage is a bucket as a pikokms.RangeStorage.
type Storage struct{ bucket *blob.Bucket }

// New returns the bucket as a storage. Closing the bucket stays with the caller.
func New(bucket *blob.Bucket) *Storage { return &Storage{bucket} }

var _ pikokms.RangeStorage = (*Storage)(nil)

// missing adds fs.ErrNotExist to the errors that mean it.
func missing(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// Put implements pikokms.Storage. The content type is application/octet-stream, and there are no metadata: those of an object that it
// replaces are lost, so it is not for rewrapping what an application stored through Encrypt.
func (s *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	return finish(cancel, w, content)
}

// finish writes content and closes w, which drops all of it if the context ended before.
func finish(cancel context.CancelFunc, w *blob.Writer, content io.Reader) error {
	if _, err := io.Copy(w, content); err != nil {
		cancel()
		_ = w.Close() // says that the context ended
		return err
	}
	return w.Close()
}

// Get implements pikokms.Storage.
func (s *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, missing(err)
	}
	return r, nil
}

// Delete implements pikokms.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return missing(s.bucket.Delete(ctx, key))
}

// List implements pikokms.Storage.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		objects := s.bucket.List(&blob.ListOptions{Prefix: prefix})
		for {
			object, err := objects.Next(ctx)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
			if !yield(object.Key, nil) {
				return
			}
		}
	}
}

// Open implements pikokms.RangeStorage. It makes one request; reads make more, but for an object of up to 4 KiB.
func (s *Storage) Open(ctx context.Context, key string) (pikokms.StoredObject, error) {
	o, err := open(ctx, s.bucket, key, nil)
	if err != nil {
		return nil, missing(err)
	}
	return o, nil
}

// probe is how much of an object is fetched first: a header under a KMS key, or the whole of a small object.
const probe = 4 << 10

// object is an open object of the inner bucket.
type object struct {
	*pikokms.RangeReaderAt
	modTime     time.Time
	contentType string
	as          func(any) bool
}

func (o *object) ModTime() time.Time { return o.modTime }

func open(ctx context.Context, bucket *blob.Bucket, key string, options *blob.ReaderOptions) (_ *object, err error) {
	first, err := bucket.NewRangeReader(ctx, key, 0, probe, options)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	start, err := io.ReadAll(first)
	if err != nil {
		return nil, err
	}
	o := &object{modTime: first.ModTime(), contentType: first.ContentType(), as: first.As}
	o.RangeReaderAt = pikokms.NewRangeReaderAt(first.Size(), start, func(offset, length int64) (io.ReadCloser, error) {
		r, err := bucket.NewRangeReader(ctx, key, offset, length, nil)
		if err != nil {
			return nil, missing(err)
		}
		if r.Size() != first.Size() || !r.ModTime().Equal(first.ModTime()) {
			return nil, errors.Join(fmt.Errorf("blobstorage: %s was replaced while it was being read", key), r.Close())
		}
		return r, nil
	})
	return o, nil
}
