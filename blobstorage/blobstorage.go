// Package blobstorage encrypts buckets of gocloud.dev/blob: S3, GCS, Azure, folders and memory.
//
//	application ── *blob.Bucket of Encrypt ── host: compression, encryption ── *blob.Bucket
//
// [Encrypt] returns a bucket in front of yours, and needs no other change in a program. To have the
// methods of [pikokms.Host] on a bucket, give [New] to [pikokms.WithStorage]. As with gocloud.dev,
// the program imports the drivers that it needs by blank imports.
//
// Keys and metadata are those of gocloud.dev's drivers, which escape some characters: in Azure, for
// example, the key "50% off" is the blob "50__0x25__ off". What other programs stored under names
// that a driver would escape can't be reached. The command works on such objects.
//
// A listing or an upload is whole, or fails with an error that holds [ErrAnswer], as far as
// gocloud.dev exposes wrong answers.
package blobstorage

import (
	"bufio"
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
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/transfer"
)

// Storage is a bucket as a [pikokms.RangeStorage]. It is not a [pikokms.ConditionalStorage], since
// gocloud.dev cannot replace an object on the condition that it is unchanged. Where others may put
// or delete an object while a host rewraps it, use package s3storage.
//
// Errors hold fs.ErrNotExist if there is no such object, and have the codes of package gcerrors.
type Storage struct {
	bucket  *blob.Bucket
	reading *blob.ReaderOptions
}

// New returns the bucket as a storage. The caller closes the bucket.
//
// The options apply to every read from the bucket, and may be nil. For objects in GCS whose content
// encoding is gzip, BeforeRead must choose ReadCompressed. Otherwise GCS tries to decompress them,
// and encrypted content is not gzip.
func New(bucket *blob.Bucket, reading *blob.ReaderOptions) *Storage {
	return &Storage{bucket, reading}
}

var _ pikokms.RangeStorage = (*Storage)(nil)

// missing adds fs.ErrNotExist to an error for a missing object.
func missing(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// Put stores an object with the content type application/octet-stream and no metadata. The content
// type and metadata of an object that it replaces are lost, so do not use it to rewrap what an
// application stored through [Encrypt]. The error holds [ErrAnswer] if S3's answer does not confirm
// that the object is stored.
func (s *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	options := &blob.WriterOptions{ContentType: "application/octet-stream"}
	moved, ok := content.(*s3ec.Moved)
	if !ok {
		return put(ctx, s.bucket, key, content, options)
	}
	sent, isSent := transfer.Remember(moved.Reader)
	if err := put(ctx, s.bucket, key, sent, options); err != nil {
		return err
	}
	return s.removeInstruction(ctx, key, moved, isSent)
}

// put stores content. If content fails, nothing is stored. It uses Upload, since closing a
// blob.Writer stores what was written to it, even if that is not all.
func put(ctx context.Context, bucket *blob.Bucket, key string, content io.Reader, options *blob.WriterOptions) error {
	if options.ContentType == "" { // Upload requires one
		options.ContentType = "application/octet-stream"
	}
	callersBefore := options.BeforeWrite
	options.BeforeWrite = func(as func(any) bool) error {
		if err := confirmWrites(ctx, bucket, as); err != nil || callersBefore == nil {
			return err
		}
		return callersBefore(as)
	}
	return transfer.Upload(ctx, content, func(ctx context.Context, content io.Reader) error {
		return bucket.Upload(ctx, key, content, options)
	})
}

// Get returns an object's content, which implements s3ec.Stored, so that a host can learn whether
// AWS's S3 Encryption Client wrote the object.
func (s *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.bucket.NewReader(ctx, key, s.reading)
	if err != nil {
		return nil, missing(err)
	}
	stored := bufio.NewReaderSize(transfer.NewReader(r), transfer.ProbeSize)
	start, _ := stored.Peek(header.SniffSize)
	return &buffered{stored, r, clientOf(s.bucket, key, start)}, nil
}

// buffered is the content of an object, read through a buffer so that its first bytes can be peeked
// at.
type buffered struct {
	*bufio.Reader
	io.Closer
	client
}

// Delete removes an object.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return missing(s.bucket.Delete(ctx, key))
}

// List yields keys. The listing is whole, or its error holds [ErrAnswer], as far as gocloud.dev
// exposes what is wrong: in S3 a page that is cut short, goes backwards or repeats itself, in every
// cloud a token or an end of a page that comes again, and keys outside of prefix.
func (s *Storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		options := blob.ListOptions{Prefix: prefix}
		pages := newListing(options)
		for token := blob.FirstPageToken; len(token) > 0; {
			var objects []*blob.ListObject
			var err error
			if objects, token, err = pages.page(ctx, s.bucket, token, options, pageSize); err != nil {
				yield("", err)
				return
			}
			for _, object := range objects {
				if !yield(object.Key, nil) {
					return
				}
			}
		}
	}
}

// Open opens an object for random access with one request, which fetches the first 4 KiB. Reads
// beyond them make more.
func (s *Storage) Open(ctx context.Context, key string) (pikokms.Object, error) {
	o, err := open(ctx, s.bucket, key, s.reading)
	if err != nil {
		return nil, missing(err)
	}
	return o, nil
}

// object is an open object of the inner bucket.
type object struct {
	*transfer.RangeObject
	client
	contentType string
	as          func(any) bool
	rest        *remainder // nil unless the whole object was requested at once
}

// Close ends the requests that are under way.
func (o *object) Close() error {
	err := o.RangeObject.Close()
	if o.rest != nil && !o.rest.taken.Swap(true) {
		err = errors.Join(err, o.rest.Close())
	}
	return err
}

// open opens an object for ranges. The tags of a message's frames keep ranges of two objects from
// mixing. For anything else, each fetch checks that the object's ETag is still the same.
func open(ctx context.Context, bucket *blob.Bucket, key string, options *blob.ReaderOptions) (*object, error) {
	start, o, err := readStart(ctx, bucket, key, options)
	if err != nil {
		return nil, err
	}
	if h, _, err := header.Parse(start, header.Limits{}); err == nil {
		if _, err := message.PlaintextSize(h, o.Size()); err != nil && !errors.Is(err, header.ErrUnsupported) {
			if err := checkUnchanged(ctx, bucket, key, o); err != nil {
				return nil, err
			}
		}
		return o, nil
	}
	if o.Size() <= int64(len(start)) {
		return o, nil
	}
	a, err := bucket.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	if start, o, err = readStart(ctx, bucket, key, options); err != nil {
		return nil, err
	}
	fetch := rangesOf(ctx, bucket, key, o.Size(), o.ModTime(), options)
	o.RangeObject = transfer.NewRangeObject(o.Size(), o.ModTime(), start, func(offset, length int64) (io.ReadCloser, error) {
		r, err := fetch(offset, length)
		if err != nil {
			return nil, err
		}
		now, err := bucket.Attributes(ctx, key)
		if err == nil && now.ETag != a.ETag {
			err = replaced(key)
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	})
	return o, nil
}

func replaced(key string) error {
	return fmt.Errorf("blobstorage: %s: %w", key, pikokms.ErrChanged)
}

// checkUnchanged returns an error if an object was replaced or deleted since it was opened. If that
// happens while they open it, drivers such as fileblob give the size of the old object and the
// content of the new one.
func checkUnchanged(ctx context.Context, bucket *blob.Bucket, key string, opened *object) error {
	now, err := bucket.Attributes(ctx, key)
	if err != nil {
		return err
	}
	modTime := now.ModTime
	if opened.ModTime().Nanosecond() == 0 { // GCS rounds the times of readers, but not of attributes
		modTime = modTime.Truncate(time.Second)
	}
	if now.Size != opened.Size() || !modTime.Equal(opened.ModTime()) {
		return replaced(key)
	}
	return nil
}

// readStart reads the first bytes of an object.
func readStart(ctx context.Context, bucket *blob.Bucket, key string, options *blob.ReaderOptions) (start []byte, _ *object, err error) {
	first, err := bucket.NewRangeReader(ctx, key, 0, transfer.ProbeSize, options)
	if err != nil {
		if ctx.Err() != nil || gcerrors.Code(err) == gcerrors.NotFound {
			return nil, nil, err
		}
		// S3 refuses every range of an empty object.
		if a, attributesErr := bucket.Attributes(ctx, key); attributesErr == nil && a.Size == 0 {
			return nil, &object{transfer.NewRangeObject(0, a.ModTime, nil, nil), clientOf(bucket, key, nil), a.ContentType, a.As, nil}, nil
		}
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	start = make([]byte, min(first.Size(), transfer.ProbeSize))
	if n, err := io.ReadFull(transfer.NewReader(first), start); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, fmt.Errorf("blobstorage: %s: after %d bytes: %w", key, n, err)
	}
	fetch := rangesOf(ctx, bucket, key, first.Size(), first.ModTime(), options)
	return start, &object{transfer.NewRangeObject(first.Size(), first.ModTime(), start, fetch), clientOf(bucket, key, start), first.ContentType(), first.As, nil}, nil
}

// rangesOf returns a function that fetches ranges of an object. It fails once the object no longer
// has this size and time.
func rangesOf(ctx context.Context, bucket *blob.Bucket, key string, size int64, modTime time.Time, options *blob.ReaderOptions) func(offset, length int64) (io.ReadCloser, error) {
	return func(offset, length int64) (io.ReadCloser, error) {
		r, err := bucket.NewRangeReader(ctx, key, offset, length, options)
		if err != nil {
			return nil, missing(err)
		}
		if r.Size() != size || !r.ModTime().Equal(modTime) {
			return nil, errors.Join(replaced(key), r.Close())
		}
		return r, nil
	}
}
