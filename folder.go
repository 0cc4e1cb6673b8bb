package pikokms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// temporaryPrefix begins the names of files that a Put has not finished, in the folder's top level.
const temporaryPrefix = ".pikokms-tmp-"

// ErrInvalidKey means a key that no object can have: keys are relative slash-separated paths without "." and ".." parts.
var ErrInvalidKey = errors.New("invalid object key")

// Folder is a storage in a folder of the file system: each object is a file, written aside, synced and renamed into place.
// Keys cannot lead out of the folder, not through symbolic links either. It is safe for concurrent use, by several
// processes too.
type Folder struct {
	root *os.Root
}

// NewFolder opens a folder as storage and makes it if need be.
func NewFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder storage: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("folder storage: %w", err)
	}
	return &Folder{root: root}, nil
}

// Close releases the folder.
func (f *Folder) Close() error { return f.root.Close() }

func localName(key string) (string, error) {
	name, err := filepath.Localize(key)
	if err != nil || key == "." || strings.HasPrefix(key, temporaryPrefix) {
		return "", fmt.Errorf("%w: %q", ErrInvalidKey, key)
	}
	return name, nil
}

// Put implements Storage.
func (f *Folder) Put(ctx context.Context, key string, content io.Reader) error {
	name, err := localName(key)
	if err != nil {
		return err
	}
	temporary := temporaryPrefix + rand.Text()
	file, err := f.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("folder storage: put %s: %w", key, err)
	}
	if err := f.write(ctx, file, content, name); err != nil {
		return fmt.Errorf("folder storage: put %s: %w", key, errors.Join(err, f.root.Remove(temporary)))
	}
	if err := f.syncFolders(name); err != nil {
		return fmt.Errorf("folder storage: put %s: the object is in place, but syncing its folder failed: %w", key, err)
	}
	return nil
}

// write fills the temporary file and renames it to its name.
func (f *Folder) write(ctx context.Context, temporary *os.File, content io.Reader, name string) error {
	if err := writeFile(ctx, temporary, content); err != nil {
		return err
	}
	if err := f.root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return f.root.Rename(filepath.Base(temporary.Name()), name)
}

// syncFolders makes a new name durable, with every folder above it that may be new. Windows cannot sync folders.
func (f *Folder) syncFolders(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		folder, err := f.root.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(folder.Sync(), folder.Close()); err != nil || dir == "." {
			return err
		}
	}
}

// writeFile fills file with content, syncs and closes it. It ends with ctx, at the next write.
func writeFile(ctx context.Context, file *os.File, content io.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	_, err := io.Copy(file, content)
	if err == nil {
		err = file.Sync()
	}
	if !stop() {
		return ctx.Err()
	}
	return errors.Join(err, file.Close())
}

// Get implements Storage.
func (f *Folder) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("folder storage: get %s: %w", key, err)
	}
	return file, nil
}

func (f *Folder) open(ctx context.Context, key string) (*os.File, error) {
	name, err := localName(key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := f.root.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Delete implements Storage.
func (f *Folder) Delete(ctx context.Context, key string) error {
	name, err := localName(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if info, err := f.root.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("folder storage: delete %s: %w", key, fs.ErrNotExist)
	}
	if err := f.root.Remove(name); err != nil {
		return fmt.Errorf("folder storage: delete %s: %w", key, err)
	}
	return nil
}

// List implements Storage. The keys come in lexical order.
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := fs.WalkDir(f.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			switch {
			case errors.Is(err, fs.ErrNotExist) && name != ".":
				return nil // removed meanwhile
			case err != nil:
				return err
			case entry.IsDir():
				if dir := name + "/"; name != "." && !strings.HasPrefix(dir, prefix) && !strings.HasPrefix(prefix, dir) {
					return fs.SkipDir
				}
			case entry.Type().IsRegular() && strings.HasPrefix(name, prefix) && !isTemporary(name):
				if !yield(name, nil) {
					return fs.SkipAll
				}
			}
			return nil
		})
		if err != nil {
			yield("", fmt.Errorf("folder storage: list %s: %w", prefix, err))
		}
	}
}

func isTemporary(name string) bool {
	return path.Dir(name) == "." && strings.HasPrefix(name, temporaryPrefix)
}

var _ Storage = (*Folder)(nil)

// Open implements RangeStorage. An object that is replaced while it is open stays the old one.
func (f *Folder) Open(ctx context.Context, key string) (StoredObject, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("folder storage: open %s: %w", key, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("folder storage: open %s: %w", key, errors.Join(err, file.Close()))
	}
	return &storedFile{file, info}, nil
}

type storedFile struct {
	*os.File
	info fs.FileInfo
}

func (f *storedFile) Size() int64 { return f.info.Size() }

func (f *storedFile) ModTime() time.Time { return f.info.ModTime() }
