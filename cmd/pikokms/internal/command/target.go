package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/kept"
	"piko.sh/pikokms/internal/parts"
	"piko.sh/pikokms/message"
)

// target is where results go.
type target struct {
	place   *place // nil if each result takes the place of its source
	replace bool   // whether a result may take the place of another object
	rename  func(key string) (string, error)
	placed  *placed
}

// openTarget opens OUT. Several sources need a folder or a bucket.
func openTarget(ctx context.Context, out string, several bool) (*place, error) {
	if strings.Contains(out, "://") {
		p, err := openBucket(ctx, out)
		if err == nil && several && !p.isMany() {
			return nil, usageError{errors.Join(fmt.Errorf("-o %s names one object; end it in a slash to have several below it", p.name), p.Close())}
		}
		return p, err
	}
	info, err := os.Stat(out)
	if several || err == nil && info.IsDir() || os.IsPathSeparator(out[len(out)-1]) {
		folder, err := pikokms.NewFolder(out)
		if err != nil {
			return nil, err
		}
		return &place{name: out, folder: folder}, nil
	}
	return &place{name: out, path: out}, nil
}

// of returns where the result of an item goes.
func (t *target) of(i item) (to item, err error) {
	if t.place == nil {
		return i, nil
	}
	if !t.place.isMany() {
		return item{place: t.place, key: t.place.only}, nil
	}
	key := i.key
	switch {
	case i.place.path != "":
		key = filepath.Base(i.place.path)
	case !i.place.isMany():
		if key = path.Base(i.key); i.key == "" {
			return to, usageError{errors.New("standard input has no name; -o names an object")}
		}
	}
	key, err = t.rename(key)
	return item{place: t.place, key: key}, err
}

// checkFree returns an error if the result of an item may not be put there because something stands
// there.
func (t *target) checkFree(ctx context.Context, to, from item) error {
	if t.place == nil || t.replace {
		return nil
	}
	var err error
	switch {
	case to.place.bucket != nil:
		exists, err := to.place.bucket.Exists(ctx, to.key)
		if err == nil && exists {
			err = errExists(to.title())
		}
		return err
	case to.place.folder != nil:
		var stored pikokms.StoredObject
		if stored, err = to.place.folder.Open(ctx, to.key); err == nil {
			defer stored.Close() // only looked at
			if info, err := stored.(interface{ Stat() (os.FileInfo, error) }).Stat(); err == nil {
				if err := t.placed.check(identity(info), from); err != nil {
					return fmt.Errorf("%s: %w", to.title(), err)
				}
			}
		}
	default:
		_, err = os.Lstat(to.place.path)
	}
	switch {
	case err == nil:
		return errExists(to.title())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// put stores the result that was made of s. It appears when it is whole. What it replaces is what
// was read, or nothing, or, if so wanted, anything.
func (t *target) put(ctx context.Context, to, from item, s *source, content io.Reader) error {
	inPlace := t.place == nil
	switch {
	case to.place.bucket != nil:
		if !inPlace {
			if err := t.placed.check(to.key, from); err != nil {
				return fmt.Errorf("%s: %w", to.title(), err)
			}
			t.placed.note(to.key, from)
		}
		return to.place.putBlob(ctx, to.key, s, content, inPlace, t.replace)
	case to.place.folder != nil && inPlace:
		if runtime.GOOS == "windows" { // where a file that is open can't be replaced
			content = &closingAtEOF{content, s}
		}
		return to.place.folder.PutFunc(ctx, to.key, content, func(old fs.FileInfo, file *os.File) error {
			return keep(file, old, s.file)
		})
	case to.place.folder != nil:
		if err := t.checkFree(ctx, to, from); err != nil {
			return err
		}
		return t.putFile(ctx, to, from, content)
	}
	out, err := createOutput(ctx, to.place.path, inPlace || t.replace)
	if err != nil {
		return err
	}
	defer out.discard()
	if _, err := io.Copy(struct{ io.Writer }{out}, content); err != nil {
		return err
	}
	if inPlace {
		now, err := os.Stat(to.place.path)
		if err != nil {
			return errors.Join(pikokms.ErrChanged, err)
		}
		if err := keep(out.File, now, s.file); err != nil {
			return err
		}
	}
	_ = s.Close() // it may be what OUT replaces
	return out.commit(ctx)
}

// keep gives a file that is to take the place of another its owner, group, mode and time. It refuses
// if that one, as it is now, is not as it was when it was read.
func keep(file *os.File, now, before os.FileInfo) error {
	if now == nil || !isSame(now, before) {
		return pikokms.ErrChanged
	}
	if err := kept.Owner(file, now); err != nil {
		return err
	}
	return kept.ModTime(file, now)
}

// isSame tells whether a file is as it was.
func isSame(now, before os.FileInfo) bool {
	return before != nil && os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
}

// closingAtEOF closes a source once its result is read.
type closingAtEOF struct {
	io.Reader
	source *source
}

// Read implements io.Reader.
func (r *closingAtEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		if err := r.source.Close(); err != nil {
			return n, err
		}
	}
	return n, err
}

// putBlob stores an object in a bucket, with the metadata of what it was made of.
func (p *place) putBlob(ctx context.Context, key string, s *source, content io.Reader, inPlace, replace bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: !inPlace && !replace}
	if a := s.attributes; a != nil {
		options.ContentType, options.CacheControl, options.ContentLanguage = a.ContentType, a.CacheControl, a.ContentLanguage
		options.ContentDisposition, options.ContentEncoding = a.ContentDisposition, a.ContentEncoding
		options.Metadata = maps.Clone(a.Metadata)
		delete(options.Metadata, blobstorage.MetadataKey)
	}
	if encrypted, ok := content.(*message.EncryptReader); ok {
		h := encrypted.Header()
		if _, compressed := h.EncryptionContext[pikokms.ChainKey]; !compressed && !h.Suite.Signed() {
			if options.Metadata == nil {
				options.Metadata = make(map[string]string, 1)
			}
			options.Metadata[blobstorage.MetadataKey] = strconv.Itoa(h.Size())
		}
	}
	options.BufferSize = parts.BufferSize(s.size)
	options.BeforeWrite = func(as func(any) bool) error { return beforeWrite(as, s.attributes, inPlace) }
	if options.ContentType == "" { // Upload demands one
		options.ContentType = "application/octet-stream"
	}
	// A writer of gocloud.dev v0.47.0 panics when Azure refuses what was written to it.
	sent := &checked.Sent{Source: content}
	upload := &checked.Upload{Source: sent, Drop: cancel}
	err := upload.Blame(p.bucket.Upload(ctx, key, upload, &options))
	refused := gcerrors.Code(err) == gcerrors.FailedPrecondition
	stored := func() (io.ReadCloser, error) { return p.bucket.NewReader(undecoded(ctx), key, asStored) }
	if (refused || passes(err)) && sent.Is(stored) {
		return nil // the answer was lost; what is refused is a second request
	}
	if refused {
		if inPlace {
			return fmt.Errorf("%w: %w", pikokms.ErrChanged, err)
		}
		return errExists(p.title(key))
	}
	return err
}

// beforeWrite keeps an object's storage class, and makes its replacement depend on that it is still
// the one that was read. Gocloud.dev's own folders have neither.
func beforeWrite(as func(any) bool, a *blob.Attributes, inPlace bool) error {
	if a == nil {
		return nil
	}
	var upload *transfermanager.UploadObjectInput
	if as(&upload) {
		var head s3.HeadObjectOutput
		if a.As(&head) {
			upload.StorageClass = types.StorageClass(head.StorageClass)
		}
		if inPlace {
			upload.IfMatch = &a.ETag
		}
		return nil
	}
	var handle **storage.ObjectHandle
	if as(&handle) {
		var old storage.ObjectAttrs
		known := a.As(&old)
		if inPlace {
			if !known {
				return errors.New("the object's generation is not known")
			}
			*handle = (*handle).If(storage.Conditions{GenerationMatch: old.Generation})
		}
		var w *storage.Writer
		if as(&w) && known {
			w.StorageClass = old.StorageClass
		}
		return nil
	}
	var stream *azblob.UploadStreamOptions
	if as(&stream) {
		var old azure.GetPropertiesResponse
		// A tier that is inferred is the account's, and follows it.
		if a.As(&old) && old.AccessTier != nil && (old.AccessTierInferred == nil || !*old.AccessTierInferred) {
			tier := azure.AccessTier(*old.AccessTier)
			stream.AccessTier = &tier
		}
		if inPlace {
			etag := azcore.ETag(a.ETag)
			stream.AccessConditions = &azure.AccessConditions{ModifiedAccessConditions: &azure.ModifiedAccessConditions{IfMatch: &etag}}
		}
	}
	return nil
}
