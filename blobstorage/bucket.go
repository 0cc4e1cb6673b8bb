package blobstorage

import (
	"bytes"
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
	"piko.sh/pikokms/compress"
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

// Encrypt returns a bucket whose objects are stored in inner, encrypted as the options of
// [pikokms.New] say; [pikokms.WithStorage] is not among them. Closing it closes inner, and zeroes
// cached data keys.
//
// Content is all that is encrypted: keys, content types and other metadata stay as they are.
// Attributes give plaintext sizes, with no further request for objects that this package stored. A
// size is -1 where it is not known: in listings, unless they are asked [WithSizes], and of compressed
// objects. Of those under zstd-seekable it is known, for a call of the key service. MD5 sums are not
// given, since they would be the ciphertext's. Sizes in attributes are as true as the storage is; what
// a reader gives is verified.
//
// A whole object is read as one stream; a range takes three requests (the header, the final frame and
// the frames of the range) and decrypts no other frames. Each is one call of the key service, none
// with [pikokms.WithDataKeyCache]: a seek of a blob.Reader opens a new range. A range of a compressed
// object is refused with [pikokms.ErrNotSeekable], but for zstd-seekable. Of an object that is
// replaced while it is read, ranges give the old one or fail.
//
// A blob.Writer that is closed stores what was written to it, also when the source of that failed:
// gocloud.dev's contract is that its context is cancelled first. blob.Bucket.Upload does that by
// itself, so prefer it to io.Copy; the examples show both. A second Close of a blob.Writer is a fault by
// that contract; what it returns here is what the first one did.
//
// S3 takes 10,000 parts, so a blob.Writer's BufferSize bounds what it stores there, 5 MiB parts being
// 48 GiB; Upload chooses larger ones for a source that tells its size.
//
// The errors of its methods hold those of [pikokms.Host] beside their gcerrors code.
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
	if a.Size == 0 { // of which S3 gives no range
		return b.host.StatedSize(bytes.NewReader(nil), 0)
	}
	r, err := b.inner.NewRangeReader(ctx, key, 0, probe, nil)
	if err != nil {
		return 0, err
	}
	start, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return 0, err
	}
	size, err := b.host.StatedSize(bytes.NewReader(start), a.Size)
	if err != nil || size >= 0 || !isSeekable(start) {
		return size, err
	}
	content, err := b.open(ctx, key, nil)
	if err != nil {
		return 0, err
	}
	return content.Size(), content.stored.Close()
}

// isSeekable tells whether the stored object that begins with start is compressed in a way that has
// random access, by which alone its size is known.
func isSeekable(start []byte) bool {
	h, _, err := header.Parse(start, header.Limits{})
	return err == nil && h.EncryptionContext[pikokms.ChainKey] == compress.ZstdSeekable
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
			switch {
			case err == nil:
				o.Size = a.Size
			case gcerrors.Code(err) == gcerrors.NotFound: // deleted meanwhile
			case isForeign(err): // it does not spoil the listing of the others
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

// isForeign tells whether an error says that an object is not one that can be read here.
func isForeign(err error) bool {
	for _, foreign := range [...]error{
		pikokms.ErrPlaintext, pikokms.ErrUnknownTransformer, provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed,
		provider.ErrUntrustedKey, provider.ErrContextMismatch, compress.ErrCorrupt,
	} {
		if errors.Is(err, foreign) {
			return true
		}
	}
	return false
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
