package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/transfer"
)

// blobObjects are the objects of a bucket that gocloud.dev keeps in a folder.
type blobObjects struct {
	bucket *blob.Bucket
	dir    string // the folder with the objects; empty if the URL's prefix is not that of a folder
}

func (b *blobObjects) Close() error { return b.bucket.Close() }

func (b *blobObjects) list(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		if b.dir != "" && !b.listPassedOver(prefix, yield) {
			return
		}
		objects := b.bucket.List(&blob.ListOptions{Prefix: prefix})
		for {
			object, err := objects.Next(ctx)
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(Listed{}, err)
				return
			}
			listed := Listed{Key: object.Key, Size: object.Size}
			object.As(&listed.Info) // in a folder that gocloud.dev keeps
			if listed.Info != nil && !listed.Info.Mode().IsRegular() {
				continue // listPassedOver has it
			}
			if !yield(listed, nil) {
				return
			}
		}
	}
}

// metadataSuffix ends the names of the files in which gocloud.dev keeps metadata of objects
// (v0.49.0, fileblob's attrsExt).
const metadataSuffix = ".attrs"

// metadataStart begins such a file.
const metadataStart = `{"user.cache_control":`

// isMetadata reports whether a file holds the metadata of another one beside it. If it were
// encrypted, gocloud.dev could not read the other one any more.
func isMetadata(path string) bool {
	object, ok := strings.CutSuffix(path, metadataSuffix)
	if !ok {
		return false
	}
	if info, err := os.Lstat(object); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // only read
	start := make([]byte, len(metadataStart))
	_, err = io.ReadFull(f, start)
	return err == nil && string(start) == metadataStart
}

// listPassedOver yields what is left out: folders that can't be read, and what is not a file with
// content of its own. Gocloud.dev's own listing (v0.49.0) does not yield it, or takes it for an
// object. The result is false if there is nothing more to list.
func (b *blobObjects) listPassedOver(prefix string, yield func(Listed, error) bool) (more bool) {
	more = true
	_ = filepath.WalkDir(b.dir, func(path string, entry fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(b.dir, path) // path begins with b.dir
		key := filepath.ToSlash(relative)
		switch {
		case relative == "." && err != nil:
			yield(Listed{}, err)
			more = false
		case relative == "." || entry == nil:
			return nil
		case entry.IsDir():
			key += "/"
			if !strings.HasPrefix(key, prefix) && !strings.HasPrefix(prefix, key) {
				return fs.SkipDir
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				more = yield(Listed{Key: key}, err)
			}
		case strings.HasPrefix(key, prefix):
			kind := leftOfFile(b.dir, path, entry.Type())
			if object, ok := strings.CutSuffix(path, metadataSuffix); ok && kind == 0 {
				kind = leftMetadata
				if _, err := os.Lstat(object); err != nil {
					kind = leftLikeMetadata
				}
			}
			if kind != 0 {
				more = yield(Listed{Key: key, Size: -1, Left: kind}, nil)
			}
		}
		if !more {
			return fs.SkipAll
		}
		return nil
	})
	return more
}

func (b *blobObjects) page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error) {
	if len(token) == 0 {
		token = blob.FirstPageToken
	}
	objects, next, err := b.bucket.ListPage(ctx, token, n, &blob.ListOptions{Prefix: folder, Delimiter: "/"})
	for _, object := range objects {
		keys = append(keys, Listed{Key: object.Key, Size: object.Size})
	}
	return keys, next, err
}

func (b *blobObjects) stat(ctx context.Context, key string) (Listed, error) {
	a, err := b.bucket.Attributes(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return Listed{}, err
	}
	listed := Listed{Key: key, Size: a.Size}
	a.As(&listed.Info)
	return listed, nil
}

func (b *blobObjects) open(ctx context.Context, key string) (pikokms.Object, error) {
	return blobstorage.New(b.bucket, nil).Open(ctx, key)
}

func (b *blobObjects) read(ctx context.Context, key string) (*opened, error) {
	a, err := b.bucket.Attributes(ctx, key)
	if err != nil {
		return nil, err
	}
	r, err := b.bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: r, Length: a.Size, ModTime: a.ModTime, attributes: a}
	s.Replace = func(ctx context.Context, content io.Reader) error {
		return b.put(ctx, key, s, content, true)
	}
	return s, nil
}

func (b *blobObjects) put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error {
	h := headersOf(from)
	h.Metadata = transfer.SetHeaderSize(h.Metadata, transfer.HeaderSizeKey, content)
	options := &blob.WriterOptions{
		IfNotExist: !replace, Metadata: h.Metadata, CacheControl: h.CacheControl, ContentDisposition: h.ContentDisposition,
		ContentEncoding: h.ContentEncoding, ContentLanguage: h.ContentLanguage, ContentType: h.ContentType,
	}
	err := transfer.Upload(ctx, content, func(ctx context.Context, content io.Reader) error {
		return b.bucket.Upload(ctx, key, content, options)
	})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		err = fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	return err
}

// setWriting does nothing, since a replacement keeps all that gocloud.dev knows of an object.
func (b *blobObjects) setWriting(Writing) {}
