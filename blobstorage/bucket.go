package blobstorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/transfer"
)

var (
	// ErrSignedURL means that the caller asked for a signed URL to get or put an object, which
	// would hand out ciphertext or store plaintext. Only URLs to delete are signed. The gcerrors
	// code is Unimplemented.
	ErrSignedURL = errors.New("a signed URL would hand out or take what is not encrypted or decrypted")
	// errReservedMetadata means that a writer's metadata contain transfer.HeaderSizeKey. The
	// gcerrors code is InvalidArgument.
	errReservedMetadata = errors.New("reserved metadata key")
)

// Encrypt returns a bucket that stores its objects in inner, encrypted as the options say. They are
// those of [pikokms.New], without [pikokms.WithStorage]. Closing the bucket closes inner and zeroes
// cached data keys.
//
// Only the content is encrypted. Keys, content types and other metadata stay as they are.
//
// Attributes give the plaintext's size, without a further request for objects that this package
// stored. The size is -1 where it is not known: in listings without [WithSizes], and for compressed
// objects. For zstd-seekable it is known, but costs a call of the key service. Sizes in attributes
// are not authenticated; what a reader gives is. MD5 sums are left out, since they would be those
// of the ciphertext.
//
// A whole object is read as one stream. A range takes three requests, for the header, the final
// frame and the frames of the range, and decrypts no other frames. A blob.Reader that seeks opens a
// new range. Each stream or range is one call of the key service, or none with
// [pikokms.WithDataKeyCache]. Ranges of compressed objects are refused with
// [pikokms.ErrNotSeekable], except for zstd-seekable. If an object is replaced while it is read,
// ranges give the old object or fail.
//
// Closing a blob.Writer stores what was written to it, even if the source of those bytes failed.
// gocloud.dev asks the caller to cancel the writer's context first. blob.Bucket.Upload does so by
// itself: prefer it to io.Copy; the examples show both. A second Close of a blob.Writer returns
// what the first one returned, though gocloud.dev does not allow it.
//
// S3 takes 10,000 parts, so BufferSize bounds what a blob.Writer can store there: 78 GiB with the
// usual parts of 8 MiB. Upload chooses larger parts if the source's size is known.
//
// Errors hold those of [pikokms.Host] besides their gcerrors code.
func Encrypt(inner *blob.Bucket, options ...pikokms.Option) (*blob.Bucket, error) {
	b, err := newBucket(inner, options)
	if err != nil {
		return nil, err
	}
	return blob.NewBucket(b), nil
}

// listingOptions are the options of one listing of an encrypting bucket. WithSizes gets a pointer
// to them from the As function.
type listingOptions struct{ sizes bool }

// WithSizes makes a listing give plaintext sizes, with one request for each object. Set it as
// blob.ListOptions.BeforeList. It is an error for a bucket that Encrypt did not return.
func WithSizes(as func(any) bool) error {
	var l *listingOptions
	if !as(&l) {
		return errors.New("blobstorage: WithSizes is for listings of buckets of Encrypt")
	}
	l.sizes = true
	return nil
}

// sizeRequests is how many of those requests a listing makes at the same time.
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
	host, err := pikokms.New(append([]pikokms.Option{pikokms.WithStorage(New(inner, nil))}, options...)...)
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
		{errReservedMetadata, gcerrors.InvalidArgument},
		{errPageToken, gcerrors.InvalidArgument},
		{provider.ErrAccessDenied, gcerrors.PermissionDenied},
		{provider.ErrUntrustedKey, gcerrors.PermissionDenied},
		{provider.ErrContextMismatch, gcerrors.FailedPrecondition},
		{provider.ErrDecryptionFailed, gcerrors.FailedPrecondition},
		{provider.ErrInvalidCiphertext, gcerrors.FailedPrecondition},
		{pikokms.ErrPlaintext, gcerrors.FailedPrecondition},
		{pikokms.ErrNotObject, gcerrors.FailedPrecondition},
		{s3ec.ErrS3EncryptionClient, gcerrors.FailedPrecondition},
		{ErrAnswer, gcerrors.Internal},
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
	delete(a.Metadata, transfer.HeaderSizeKey)
	return &driver.Attributes{
		CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
		ContentLanguage: a.ContentLanguage, ContentType: a.ContentType, Metadata: a.Metadata,
		CreateTime: a.CreateTime, ModTime: a.ModTime, ETag: a.ETag, Size: size, AsFunc: a.As,
	}, nil
}

// size returns the size of an object's plaintext, or -1.
func (b *bucket) size(ctx context.Context, key string, a *blob.Attributes) (size int64, err error) {
	if size, ok := transfer.PlaintextSize(a.Metadata, a.Size); ok {
		return size, nil
	}
	if a.Size == 0 { // S3 refuses every range of an empty object
		return b.host.StatedSize(bytes.NewReader(nil), 0)
	}
	start, stored, err := readStart(ctx, b.inner, key, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	if stored.Size() != a.Size {
		return 0, replaced(key)
	}
	prefix := knownClient{Reader: bytes.NewReader(start)}
	if !header.Sniff(start) {
		if prefix.header, err = clientHeader(ctx, b.inner, key, a); err != nil {
			return 0, err
		}
	}
	size, err = b.host.StatedSize(prefix, a.Size)
	if err != nil || size >= 0 || !isSeekable(start) {
		return size, err
	}
	content, err := b.host.OpenObject(ctx, key, stored, nil)
	if err != nil {
		return 0, err
	}
	return content.Size(), nil
}

// isSeekable reports whether the stored object that begins with start is compressed in a format
// with random access. Of compressed objects, only these have a known size.
func isSeekable(start []byte) bool {
	h, _, err := header.Parse(start, header.Limits{})
	return err == nil && h.EncryptionContext[pikokms.PairTransformers] == compress.ZstdSeekable
}

func (b *bucket) ListPaged(ctx context.Context, options *driver.ListOptions) (*driver.ListPage, error) {
	var sizeOptions listingOptions
	called := options.BeforeList == nil
	beforeList := func(as func(any) bool) error {
		if called {
			return nil
		}
		called = true
		return options.BeforeList(func(i any) bool {
			if l, ok := i.(**listingOptions); ok {
				*l = &sizeOptions
				return true
			}
			return as(i)
		})
	}
	inner := blob.ListOptions{Prefix: options.Prefix, Delimiter: options.Delimiter, BeforeList: beforeList}
	pages := newListing(inner)
	token, size := blob.FirstPageToken, pageSize
	if options.PageSize != 0 {
		size = options.PageSize
	}
	if len(options.PageToken) > 0 {
		var err error
		if token, err = pages.resume(options.PageToken); err != nil {
			return nil, err
		}
	}
	objects, next, err := pages.page(ctx, b.inner, token, inner, size)
	if err != nil {
		return nil, err
	}
	// The drivers of folders and memory call no BeforeList.
	if err := beforeList(func(any) bool { return false }); err != nil {
		return nil, err
	}
	page := &driver.ListPage{NextPageToken: pages.token(next)}
	for _, o := range objects {
		listed := &driver.ListObject{Key: o.Key, IsDir: o.IsDir, ModTime: o.ModTime, AsFunc: o.As}
		if !o.IsDir {
			listed.Size = -1
		}
		page.Objects = append(page.Objects, listed)
	}
	if !sizeOptions.sizes {
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
			switch {
			case err == nil:
				o.Size = a.Size
			case gcerrors.Code(err) == gcerrors.NotFound: // it was deleted meanwhile
			case isForeign(err): // one unreadable object does not make the whole listing fail
			default:
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return page, nil
}

// isForeign reports whether an error means that this bucket can't read an object.
func isForeign(err error) bool {
	for _, foreign := range [...]error{
		pikokms.ErrPlaintext, pikokms.ErrUnknownTransformer, s3ec.ErrS3EncryptionClient, provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed,
		provider.ErrUntrustedKey, provider.ErrContextMismatch, compress.ErrCorrupt,
	} {
		if errors.Is(err, foreign) {
			return true
		}
	}
	return false
}

// Copy copies an object within the storage. Where names are bound, it encrypts the object anew for
// its new name, and refuses what no host stored: a copy would pass as authentic, though nobody
// knows who made the original.
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
	source, err := b.inner.NewReader(ctx, from, nil)
	if err != nil {
		return err
	}
	copied, err := b.host.CopyObject(ctx, to, from, source)
	if err == nil {
		u := upload{b, ctx, to, blob.WriterOptions{
			CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
			ContentLanguage: a.ContentLanguage, ContentType: a.ContentType, DisableContentTypeDetection: true, Metadata: a.Metadata,
		}}
		err = u.put(copied)
	}
	return errors.Join(err, source.Close())
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
