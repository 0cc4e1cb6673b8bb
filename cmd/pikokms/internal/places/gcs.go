package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/s3storage"
	"piko.sh/pikokms/transfer"
)

// gcsObjects are the objects of a bucket in Google Cloud Storage whose names begin with a prefix.
type gcsObjects struct {
	bucket  *blob.Bucket // is only closed
	handle  *storage.BucketHandle
	prefix  string
	allowed allowedLosses

	withoutACLs atomic.Bool // the bucket has no access control lists of objects
}

func (b *gcsObjects) Close() error { return b.bucket.Close() }

func (b *gcsObjects) list(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		query := &storage.Query{Prefix: b.prefix + prefix}
		err := query.SetAttrSelection([]string{"Name", "Size"})
		objects := b.handle.Objects(ctx, query)
		whole := wholeListing{prefix: query.Prefix, ordered: true}
		token := ""
		for err == nil {
			var object *storage.ObjectAttrs
			if object, err = objects.Next(); err == iterator.Done {
				return
			}
			if err == nil {
				err = whole.name(object.Name)
			}
			if current := objects.PageInfo().Token; err == nil && current != token {
				token = current
				err = whole.part(token)
			}
			if err == nil && !yield(Listed{Key: strings.TrimPrefix(object.Name, b.prefix), Size: object.Size}, nil) {
				return
			}
		}
		yield(Listed{}, gcsError(err))
	}
}

func (b *gcsObjects) page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error) {
	objects := b.handle.Objects(ctx, &storage.Query{Prefix: b.prefix + folder, Delimiter: "/"})
	var found []*storage.ObjectAttrs
	nextToken, err := iterator.NewPager(objects, n, string(token)).NextPage(&found)
	if err != nil {
		return nil, nil, gcsError(err)
	}
	for _, object := range found {
		listed := Listed{Key: strings.TrimPrefix(object.Name+object.Prefix, b.prefix), Size: object.Size}
		if object.Prefix != "" || !listed.IsMarker() {
			keys = append(keys, listed)
		}
	}
	return keys, []byte(nextToken), nil
}

func (b *gcsObjects) object(key string) *storage.ObjectHandle { return b.handle.Object(b.prefix + key) }

func (b *gcsObjects) stat(ctx context.Context, key string) (Listed, error) {
	a, err := b.object(key).Attrs(ctx)
	if err != nil {
		return Listed{}, gcsError(err)
	}
	return Listed{Key: key, Size: a.Size}, nil
}

// GCS decompresses objects of content encoding gzip unless they are asked for compressed. An
// encrypted object keeps that encoding, but is not gzip any more.
const compressed = true

func (b *gcsObjects) open(ctx context.Context, key string) (pikokms.Object, error) {
	object := b.object(key).ReadCompressed(compressed)
	first, err := object.NewRangeReader(ctx, 0, transfer.ProbeSize)
	if isGCSStatus(err, http.StatusRequestedRangeNotSatisfiable) { // it is empty
		a, err := object.Attrs(ctx)
		if err == nil && a.Size != 0 {
			err = fmt.Errorf("%w: %s has no first bytes, and is not empty", blobstorage.ErrAnswer, key)
		}
		if err != nil {
			return nil, gcsError(err)
		}
		return transfer.NewRangeObject(0, a.Updated, nil, nil), nil
	}
	if err != nil {
		return nil, gcsError(err)
	}
	object = object.Generation(first.Attrs.Generation)
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		r, err := object.NewRangeReader(ctx, offset, length)
		if errors.Is(err, storage.ErrObjectNotExist) {
			err = fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
		}
		if err != nil {
			return nil, gcsError(err)
		}
		return r, nil
	}
	return newOpenObject(first, first.Attrs.Size, first.Attrs.LastModified, fetch)
}

func (b *gcsObjects) read(ctx context.Context, key string) (*opened, error) {
	object := b.object(key)
	a, err := object.Attrs(ctx)
	if err == nil && a.Generation == 0 {
		err = fmt.Errorf("%w: it states no generation", blobstorage.ErrAnswer)
	}
	if err != nil {
		return nil, gcsError(err)
	}
	r, err := object.Generation(a.Generation).ReadCompressed(compressed).NewReader(ctx)
	if err != nil {
		return nil, gcsError(err)
	}
	s := &opened{ReadCloser: r, Length: a.Size, ModTime: a.Updated, gcs: a, attributes: &blob.Attributes{
		CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
		ContentLanguage: a.ContentLanguage, ContentType: a.ContentType, Metadata: a.Metadata,
	}}
	s.NotKept = func(ctx context.Context) ([]s3storage.Loss, error) { return b.notKept(ctx, key, a) }
	s.Replace = func(ctx context.Context, content io.Reader) error {
		losses, err := b.notKept(ctx, key, a)
		if err == nil {
			err = b.allowed.Refuse(losses)
		}
		if err != nil {
			return err
		}
		return b.upload(ctx, key, s, content, storage.Conditions{GenerationMatch: a.Generation}, pikokms.ErrChanged)
	}
	return s, nil
}

// notKept returns what a replacement of an object in its place can't keep.
func (b *gcsObjects) notKept(ctx context.Context, key string, a *storage.ObjectAttrs) (losses []s3storage.Loss, err error) {
	if a.CustomTime.Nanosecond() != 0 { // the client (v1.69.0) sends whole seconds
		losses = append(losses, s3storage.Loss{Kind: LossTime, Reason: "its custom time has fractions of a second, " + a.CustomTime.Format(time.RFC3339Nano)})
	}
	if len(a.ACL) > 0 || b.withoutACLs.Load() {
		return losses, nil
	}
	_, err = b.object(key).ACL().List(ctx)
	switch {
	case err == nil:
	case isGCSStatus(err, http.StatusForbidden):
		losses = append(losses, s3storage.Loss{Kind: s3storage.LossACL, Reason: "it may have an access control list, and the permission storage.objects.getIamPolicy is missing"})
	case isGCSStatus(err, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented): // uniform access
		b.withoutACLs.Store(true)
	default:
		return nil, gcsError(err)
	}
	return losses, nil
}

func (b *gcsObjects) put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error {
	return b.upload(ctx, key, from, content, storage.Conditions{DoesNotExist: !replace}, fs.ErrExist)
}

// The client (v1.69.0) takes a buffer of this size for each upload, however small, and sends what
// fits in it by one request. Its chunks are a multiple of the unit.
const (
	gcsChunk     = 16 << 20
	gcsChunkUnit = 256 << 10
)

// keyVersion matches the version in the name of the KMS key of an object. A replacement is stored
// under the key's current version.
var keyVersion = regexp.MustCompile(`/cryptoKeyVersions/[^/]*$`)

// upload stores content. If a condition does not hold, the error holds refused.
func (b *gcsObjects) upload(ctx context.Context, key string, from *opened, content io.Reader, conditions storage.Conditions, refused error) error {
	sent, isSent := transfer.Remember(content)
	err := transfer.Upload(ctx, sent, func(ctx context.Context, sent io.Reader) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w := b.newWriter(ctx, key, from, conditions)
		w.Metadata = transfer.SetHeaderSize(w.Metadata, transfer.HeaderSizeKey, content)
		_, err := io.Copy(struct{ io.Writer }{w}, sent)
		if err != nil {
			cancel()
		}
		if closeErr := w.Close(); err == nil {
			err = closeErr
		}
		if err == nil && w.Attrs().Generation == 0 {
			err = fmt.Errorf("%w: no generation follows the upload, so whether the object is stored is unknown", blobstorage.ErrAnswer)
		}
		return err
	})
	stored := func() (io.ReadCloser, error) { return b.object(key).ReadCompressed(compressed).NewReader(ctx) }
	isRefused := isGCSStatus(err, http.StatusPreconditionFailed)
	if (isRefused || IsTransient(err)) && isSent(stored) {
		return nil // it is stored: its answer was lost, and only its repetition was refused
	}
	if isRefused {
		err = fmt.Errorf("%w: %w", refused, err)
	}
	return gcsError(err)
}

// newWriter returns a writer of an object with what from has besides its content.
func (b *gcsObjects) newWriter(ctx context.Context, key string, from *opened, conditions storage.Conditions) *storage.Writer {
	object := b.object(key)
	if conditions != (storage.Conditions{}) {
		object = object.If(conditions)
	}
	w := object.NewWriter(ctx)
	h := headersOf(from)
	w.CacheControl, w.ContentDisposition, w.ContentEncoding = h.CacheControl, h.ContentDisposition, h.ContentEncoding
	w.ContentLanguage, w.ContentType, w.Metadata = h.ContentLanguage, h.ContentType, h.Metadata
	if a := from.gcs; a != nil {
		w.StorageClass, w.CustomTime, w.Contexts = a.StorageClass, a.CustomTime, contextsOf(a)
		if conditions.GenerationMatch != 0 { // for another object, the bucket decides on these
			w.EventBasedHold, w.TemporaryHold, w.ACL = a.EventBasedHold, a.TemporaryHold, a.ACL
			w.KMSKeyName = keyVersion.ReplaceAllString(a.KMSKeyName, "")
			if r := a.Retention; r != nil && r.RetainUntil.After(time.Now()) {
				w.Retention = r
			}
		}
	}
	w.ChunkSize = gcsChunk
	if from.Length >= 0 && from.Length < gcsChunk {
		w.ChunkSize = min(gcsChunk, (int(from.Length+from.Length/64)/gcsChunkUnit+1)*gcsChunkUnit)
	}
	w.FinalizeOnClose = true
	return w
}

// contextsOf returns the contexts of an object without the times that GCS gives them.
func contextsOf(a *storage.ObjectAttrs) *storage.ObjectContexts {
	if a.Contexts == nil || len(a.Contexts.Custom) == 0 {
		return nil
	}
	custom := make(map[string]storage.ObjectCustomContextPayload, len(a.Contexts.Custom))
	for name, payload := range a.Contexts.Custom {
		custom[name] = storage.ObjectCustomContextPayload{Value: payload.Value}
	}
	return &storage.ObjectContexts{Custom: custom}
}

func isGCSStatus(err error, statuses ...int) bool {
	answer, ok := errors.AsType[*googleapi.Error](err)
	return ok && slices.Contains(statuses, answer.Code)
}

// gcsError returns an error on one line. It holds fs.ErrNotExist if there is no such object.
func gcsError(err error) error {
	if err == nil {
		return nil
	}
	text := joinLines(err.Error())
	if errors.Is(err, storage.ErrObjectNotExist) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return &oneLine{text, err}
}

func (b *gcsObjects) setWriting(w Writing) { b.allowed = w.Allowed }
