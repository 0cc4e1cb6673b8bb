package blobstorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms"
	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// MetadataKey is the metadata key under which an object of known size keeps the number of bytes that its message has beside frames,
// so that its attributes give the size of the plaintext with no further request. Users of Encrypt's bucket do not see it.
const MetadataKey = "pikokms-header-size"

var (
	// ErrSignedURL means that a signed URL was asked for that would hand out ciphertext or take plaintext: any but one to delete.
	// Its gcerrors code is Unimplemented.
	ErrSignedURL = errors.New("a signed URL would hand out or take what is not encrypted or decrypted")
	// ErrReservedMetadata means that a writer's metadata have MetadataKey.
	ErrReservedMetadata = errors.New("reserved metadata key")
)

// Encrypt returns a bucket whose objects are stored in inner, encrypted as the options of pikokms.New say; WithStorage is not among
// them. Closing it closes inner, and zeroes cached data keys.
//
// Content is all that is encrypted: keys, content types and other metadata stay as they are. Attributes give plaintext sizes, with no
// further request for objects that this package stored. A size is -1 where it is not known beforehand: in listings, unless they are
// asked WithSizes, and for compressed objects. MD5 sums are not given, since they would be the ciphertext's.
//
// Sizes in attributes are as true as the storage is; what a reader gives is verified.
//
// A whole object is read as one stream; a range takes three requests (the header, the final frame and the frames of the range) and
// decrypts no other frames. Each is one call of the key service, none with pikokms.WithDataKeyCache: a seek of a blob.Reader opens a
// new range. A range of a compressed object is refused with pikokms.ErrNotSeekable, but for zstd-seekable.
//
// The errors of its methods hold those of pikokms.Host beside their gcerrors code.
func Encrypt(inner *blob.Bucket, options ...pikokms.Option) (*blob.Bucket, error) {
	b, err := newBucket(inner, options)
	if err != nil {
		return nil, err
	}
	return blob.NewBucket(b), nil
}

// OpenBucket is blob.OpenBucket and Encrypt.
func OpenBucket(ctx context.Context, url string, options ...pikokms.Option) (*blob.Bucket, error) {
	inner, err := blob.OpenBucket(ctx, url)
	if err != nil {
		return nil, err
	}
	b, err := Encrypt(inner, options...)
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	return b, nil
}

// Listing is what blob.ListOptions.BeforeList of an encrypting bucket gets by its As function.
type Listing struct {
	Sizes bool // ask for the attributes of each listed object, to give plaintext sizes
}

// WithSizes is a blob.ListOptions.BeforeList that has a listing give plaintext sizes, at one request for each object.
func WithSizes(as func(any) bool) error {
	var l *Listing
	if !as(&l) {
		return errors.New("blobstorage: WithSizes is for listings of buckets of Encrypt")
	}
	l.Sizes = true
	return nil
}

// sizeRequests is how many objects' attributes a listing asks for side by side.
const sizeRequests = 16

// bucket is a driver.Bucket.
type bucket struct {
	inner *blob.Bucket
	host  *pikokms.Host
}

func newBucket(inner *blob.Bucket, options []pikokms.Option) (*bucket, error) {
	if inner == nil {
		return nil, fmt.Errorf("%w: no bucket", pikokms.ErrConfig)
	}
	host, err := pikokms.New(append([]pikokms.Option{pikokms.WithStorage(New(inner))}, options...)...)
	if err != nil {
		return nil, err
	}
	return &bucket{inner, host}, nil
}

func (b *bucket) Close() error { return errors.Join(b.host.Close(), b.inner.Close()) }

func (b *bucket) As(i any) bool { return b.inner.As(i) }

func (b *bucket) ErrorAs(err error, i any) bool { return b.inner.ErrorAs(err, i) }

func (b *bucket) ErrorCode(err error) gcerrors.ErrorCode {
	for _, c := range []struct {
		err  error
		code gcerrors.ErrorCode
	}{
		{context.Canceled, gcerrors.Canceled},
		{context.DeadlineExceeded, gcerrors.DeadlineExceeded},
		{fs.ErrNotExist, gcerrors.NotFound},
		{ErrSignedURL, gcerrors.Unimplemented},
		{pikokms.ErrNotSeekable, gcerrors.Unimplemented},
		{ErrReservedMetadata, gcerrors.InvalidArgument},
		{provider.ErrAccessDenied, gcerrors.PermissionDenied},
		{provider.ErrUntrustedKey, gcerrors.PermissionDenied},
		{provider.ErrContextMismatch, gcerrors.FailedPrecondition},
		{provider.ErrDecryptionFailed, gcerrors.FailedPrecondition},
		{provider.ErrInvalidCiphertext, gcerrors.FailedPrecondition},
		{pikokms.ErrPlaintext, gcerrors.FailedPrecondition},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return gcerrors.Code(err)
}

func (b *bucket) Attributes(ctx context.Context, key string) (*driver.Attributes, error) {
	a, err := b.inner.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	size, err := b.size(ctx, key, a)
	if err != nil {
		return nil, err
	}
	delete(a.Metadata, MetadataKey)
	return &driver.Attributes{
		CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
		ContentLanguage: a.ContentLanguage, ContentType: a.ContentType, Metadata: a.Metadata,
		CreateTime: a.CreateTime, ModTime: a.ModTime, ETag: a.ETag, Size: size, AsFunc: a.As,
	}, nil
}

// size returns the size of an object's plaintext, or -1.
func (b *bucket) size(ctx context.Context, key string, a *blob.Attributes) (int64, error) {
	if text, ok := a.Metadata[MetadataKey]; ok {
		n, err := strconv.ParseUint(text, 10, 32)
		if err == nil {
			if size, err := frame.PlaintextSize(a.Size-int64(n), header.DefaultFrameLength); err == nil {
				return size, nil
			}
		}
		// Whoever changed it, the object itself knows.
	}
	start, err := b.inner.NewRangeReader(ctx, key, 0, probe, nil)
	if err != nil {
		return 0, err
	}
	size, err := b.host.StatedSize(start, a.Size)
	return size, errors.Join(err, start.Close())
}

func (b *bucket) ListPaged(ctx context.Context, options *driver.ListOptions) (*driver.ListPage, error) {
	var listing Listing
	called := options.BeforeList == nil
	before := func(as func(any) bool) error {
		if called {
			return nil
		}
		called = true
		return options.BeforeList(func(i any) bool {
			if l, ok := i.(**Listing); ok {
				*l = &listing
				return true
			}
			return as(i)
		})
	}
	token, pageSize := options.PageToken, options.PageSize
	if len(token) == 0 {
		token = blob.FirstPageToken
	}
	if pageSize == 0 {
		pageSize = 1000
	}
	objects, next, err := b.inner.ListPage(ctx, token, pageSize, &blob.ListOptions{Prefix: options.Prefix, Delimiter: options.Delimiter, BeforeList: before})
	if err != nil {
		return nil, err
	}
	// Folders and memory call no BeforeList.
	if err := before(func(any) bool { return false }); err != nil {
		return nil, err
	}
	page := &driver.ListPage{NextPageToken: next}
	for _, o := range objects {
		listed := &driver.ListObject{Key: o.Key, IsDir: o.IsDir, ModTime: o.ModTime, AsFunc: o.As}
		if !o.IsDir {
			listed.Size = -1
		}
		page.Objects = append(page.Objects, listed)
	}
	if !listing.Sizes {
		return page, nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sizeRequests)
	for _, o := range page.Objects {
		if o.IsDir {
			continue
		}
		group.Go(func() error {
			a, err := b.Attributes(ctx, o.Key)
			if gcerrors.Code(err) == gcerrors.NotFound {
				return nil // deleted meanwhile
			}
			if err == nil {
				o.Size = a.Size
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return page, nil
}

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
	stored, err := open(ctx, b.inner, key, inner)
	if err != nil {
		return nil, err
	}
	content, err := b.host.OpenObject(ctx, key, stored)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	size := content.Size()
	offset = min(offset, size)
	if length < 0 || length > size-offset {
		length = size - offset
	}
	// Frames and their overhead, of which the first and the last may be needed in part.
	stored.Expect(length + length>>10 + 2*header.DefaultFrameLength)
	return &reader{
		Reader:     io.NewSectionReader(content, offset, length),
		Closer:     stored,
		attributes: driver.ReaderAttributes{ContentType: stored.contentType, ModTime: stored.modTime, Size: size},
		as:         stored.as,
	}, nil
}

// newReader reads a whole object, as a stream.
func (b *bucket) newReader(ctx context.Context, key string, options *blob.ReaderOptions) (driver.Reader, error) {
	stored, err := b.inner.NewReader(ctx, key, options)
	if err != nil {
		return nil, err
	}
	content, size, err := b.host.DecryptObject(ctx, key, stored, stored.Size())
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

func (b *bucket) NewTypedWriter(ctx context.Context, key, contentType string, options *driver.WriterOptions) (driver.Writer, error) {
	if _, taken := options.Metadata[MetadataKey]; taken {
		return nil, fmt.Errorf("%w: %q is the encryption's own", ErrReservedMetadata, MetadataKey)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	source, w := io.Pipe()
	stored, err := b.host.EncryptObject(ctx, key, source)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	metadata := make(map[string]string)
	for name, value := range options.Metadata {
		metadata[name] = value
	}
	if _, known := stored.Header().EncryptionContext[pikokms.ChainKey]; !known {
		metadata[MetadataKey] = strconv.Itoa(stored.Header().Size())
	}
	inner, err := b.inner.NewWriter(ctx, key, &blob.WriterOptions{
		BufferSize: options.BufferSize, MaxConcurrency: options.MaxConcurrency,
		CacheControl: options.CacheControl, ContentDisposition: options.ContentDisposition, ContentEncoding: options.ContentEncoding,
		ContentLanguage: options.ContentLanguage, ContentType: contentType, DisableContentTypeDetection: true,
		Metadata: metadata, BeforeWrite: options.BeforeWrite, IfNotExist: options.IfNotExist,
	})
	if err != nil {
		cancel(nil)
		return nil, err
	}
	result := &writer{PipeWriter: w, ctx: ctx, cancel: cancel, done: make(chan error, 1)}
	go func() {
		err := finish(func() { cancel(nil) }, inner, stored)
		source.CloseWithError(err) // a Write that waits, if the storage failed
		result.done <- err
	}()
	return result, nil
}

// writer is a driver.Writer: the stages pull what is written to it.
type writer struct {
	*io.PipeWriter
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan error
}

// Upload implements driver.Uploader.
func (w *writer) Upload(r io.Reader) error {
	_, err := io.Copy(w.PipeWriter, r)
	if err != nil {
		w.cancel(err) // a Close now would store a part of it
	}
	return err
}

// Close stores the object, or drops it if the context ended.
func (w *writer) Close() error {
	defer w.cancel(nil)
	if err := w.ctx.Err(); err != nil {
		_ = w.PipeWriter.CloseWithError(err) // always nil
		<-w.done
		return context.Cause(w.ctx)
	}
	_ = w.PipeWriter.Close() // always nil
	return <-w.done
}

// Copy copies an object in the storage, or, where names are bound, encrypts it anew for its new name.
func (b *bucket) Copy(ctx context.Context, to, from string, options *driver.CopyOptions) error {
	if !b.host.BindsNames() {
		return b.inner.Copy(ctx, to, from, &blob.CopyOptions{BeforeCopy: options.BeforeCopy})
	}
	a, err := b.inner.Attributes(ctx, from)
	if err != nil {
		return err
	}
	if options.BeforeCopy != nil {
		if err := options.BeforeCopy(func(any) bool { return false }); err != nil {
			return err
		}
	}
	source, err := b.newReader(ctx, from, nil)
	if err != nil {
		return err
	}
	delete(a.Metadata, MetadataKey)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewTypedWriter(ctx, to, a.ContentType, &driver.WriterOptions{
		CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
		ContentLanguage: a.ContentLanguage, Metadata: a.Metadata,
	})
	if err != nil {
		return errors.Join(err, source.Close())
	}
	_, err = io.Copy(w, source)
	if err = errors.Join(err, source.Close()); err != nil {
		cancel()
		_ = w.Close() // says that the context ended
		return err
	}
	return w.Close()
}

func (b *bucket) Delete(ctx context.Context, key string, options *driver.DeleteOptions) error {
	return b.inner.DeleteWithOptions(ctx, key, &blob.DeleteOptions{BeforeDelete: options.BeforeDelete})
}

func (b *bucket) SignedURL(ctx context.Context, key string, options *driver.SignedURLOptions) (string, error) {
	if options.Method != http.MethodDelete {
		return "", fmt.Errorf("%w: %s of %s", ErrSignedURL, options.Method, key)
	}
	return b.inner.SignedURL(ctx, key, &blob.SignedURLOptions{Expiry: options.Expiry, Method: options.Method, BeforeSign: options.BeforeSign})
}
