// Package folderstorage stores objects in a folder of the file system: a [Storage] is one for
// [pikokms.Host].
package folderstorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"piko.sh/pikokms"
	"piko.sh/pikokms/outfile"
)

// ErrInvalidObjectKey means that no object can have the key. Keys are relative slash-separated
// paths without "." and ".." parts. On Windows and macOS they are UTF-8. The error also means that
// a part of the key is longer than the file system allows, that there is an object where the key
// needs a folder, or a folder where it needs an object.
var ErrInvalidObjectKey = errors.New("invalid object key")

// Storage is a storage in a folder of the file system. Each object is a file. It is written under a
// temporary name, or on Linux without a name, so that nothing is left of it if the process is
// killed. Once complete, it is synced and put into place. Keys cannot lead out of the
// folder, not even through symbolic links. Folders below it are made when they are needed and
// removed when they are empty. A part of the folder may be on another device. Where the file system
// takes two names for one, as those of Windows and macOS take "a" and "A", two such keys are one
// object, unless PutFunc refuses.
//
// A Storage is safe for concurrent use, and so is one folder for several processes. They exclude
// each other by a lock on the folder. Some file systems have no such locks, NFS among them, and
// neither have systems other than Linux, macOS and the BSDs. There, a process that calls PutIf can
// undo another's change of the same object. And a Put fails if another process deletes the last
// object in its folder at that moment.
//
// It is a pikokms.RangeStorage and a pikokms.ConditionalStorage. If there is no such object, errors
// hold fs.ErrNotExist.
type Storage struct {
	root     *os.Root
	changing chan struct{} // holds one token while names change
	lockable *os.File      // the folder itself, which is locked while names change
	close    func() error
}

// New opens a folder as storage, and makes it if need be. It removes files from its top level
// that killed writers left there: at once if the file system has locks, which show whether a writer
// still runs, and otherwise a day after the last write. List does the same in the folders below.
func New(dir string) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder storage: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("folder storage: %w", err)
	}
	lockable, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("folder storage: %s: %w", dir, errors.Join(err, root.Close()))
	}
	f := &Storage{root: root, changing: make(chan struct{}, 1), lockable: lockable}
	f.close = sync.OnceValue(func() error { return errors.Join(lockable.Close(), root.Close()) })
	if err := f.sweepTop(); err != nil {
		return nil, fmt.Errorf("folder storage: %s: %w", dir, errors.Join(err, f.Close()))
	}
	return f, nil
}

// Close releases the folder. A second Close returns the first one's result.
func (f *Storage) Close() error { return f.close() }

func localName(key string) (string, error) {
	if !utf8.ValidString(key) {
		// Where names are bytes, files may have such names, but Localize refuses them.
		valid, err := filepath.Localize(strings.ToValidUTF8(key, string(utf8.RuneError)))
		if err != nil || !namesAreBytes || valid == "." || isTemporary(key) || strings.Contains(key, "/"+temporaryPrefix) {
			return "", fmt.Errorf("%w: %q is not UTF-8", ErrInvalidObjectKey, key)
		}
		return key, nil
	}
	name, err := filepath.Localize(key)
	if err != nil || key == "." || isTemporary(key) || strings.Contains(key, "/"+temporaryPrefix) {
		return "", fmt.Errorf("%w: %q", ErrInvalidObjectKey, key)
	}
	return name, nil
}

// Put stores content. For a key that cannot be stored, it fails before it reads content, and the
// error holds ErrInvalidObjectKey.
func (f *Storage) Put(ctx context.Context, key string, content io.Reader) error {
	return f.put(ctx, key, content, nil)
}

// PutIf replaces a file of this version: the same file, with the same size and time. A file that
// another program writes in place keeps its version while these do not change. The new file gets
// the owner, the group and the permissions of the old one, as far as the system permits. The error
// holds pikokms.ErrChanged if there is no file of this version.
func (f *Storage) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	return f.PutFunc(ctx, key, content, func(old fs.FileInfo, file *os.File) error {
		if old == nil || versionOf(old) != version {
			return pikokms.ErrChanged
		}
		if err := outfile.KeepOwner(file, old); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	})
}

// PutFunc stores an object as Put does, if place returns nil. PutFunc calls place once content is
// written, while no other name in the folder changes. Old is the file under key, or nil if there is
// none. File is the one to take its place, whose owner, permissions and times place may set. If
// place returns an error, nothing changes, and PutFunc's error holds it. If old is nil and another
// program creates the file at that moment, that file is kept, and the error holds [fs.ErrExist].
func (f *Storage) PutFunc(ctx context.Context, key string, content io.Reader, place func(old fs.FileInfo, file *os.File) error) error {
	return f.put(ctx, key, content, place)
}

func (f *Storage) put(ctx context.Context, key string, content io.Reader, place func(old fs.FileInfo, file *os.File) error) (err error) {
	name, err := localName(key)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("folder storage: put %s: %w", key, err)
		}
	}()
	dir, err := f.stagingFolder(ctx, name)
	if err != nil {
		return err
	}
	u, err := f.create(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.discard()) }()
	if err := withoutPath(writeFile(ctx, u.file, content), u.file.Name()); err != nil {
		return err
	}
	err = f.exclusively(ctx, func() error {
		old, err := f.root.Lstat(name)
		switch {
		case place == nil:
			return u.moveIn(name, true)
		case isNotExist(err) || err == nil && old.IsDir(): // moveIn returns the error for a folder
			old = nil
		case err != nil:
			return err
		}
		if err := place(old, u.file); err != nil {
			return err
		}
		return u.moveIn(name, old != nil)
	})
	if err != nil {
		return err
	}
	if err := f.syncFolders(name); err != nil {
		return fmt.Errorf("the object is in place, but syncing its folder failed: %w", err)
	}
	return nil
}

// withoutPath removes this path, a temporary name that means nothing to a user, from err. An error
// of the content keeps its own path.
func withoutPath(err error, path string) error {
	if named, ok := errors.AsType[*fs.PathError](err); ok && named.Path == path {
		return named.Err
	}
	return err
}

// writeFile copies content to file and syncs it. If ctx ends, the next write fails.
func writeFile(ctx context.Context, file *os.File, content io.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	_, err := io.Copy(outfile.NewWriter(file), content)
	if err == nil {
		err = syncFile(file)
	}
	if !stop() {
		return ctx.Err()
	}
	return err
}

// Get returns an object's content. If the object is replaced meanwhile, the old content is read.
func (f *Storage) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("folder storage: get %s: %w", key, err)
	}
	return file, nil
}

// GetVersion is Get, and also returns the object's version for PutIf: which file it is, its size
// and its time.
func (f *Storage) GetVersion(ctx context.Context, key string) (io.ReadCloser, string, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, "", fmt.Errorf("folder storage: get %s: %w", key, err)
	}
	return file, versionOf(file.info), nil
}

// Open opens an object for random access. If it is replaced meanwhile, the old content is read.
func (f *Storage) Open(ctx context.Context, key string) (pikokms.Object, error) {
	file, err := f.open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("folder storage: open %s: %w", key, err)
	}
	return file, nil
}

func (f *Storage) open(ctx context.Context, key string) (*storedFile, error) {
	name, err := localName(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := f.root.OpenFile(name, os.O_RDONLY|openNonblocking, 0)
	if err != nil {
		return nil, asNotExist(err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: what stands there is no file", fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &storedFile{file, info, sync.OnceValue(file.Close)}, nil
}

// isNotExist reports whether err means that there is no such object. That is also so if the name is
// too long, or if there is a file in place of one of the object's folders.
func isNotExist(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

func asNotExist(err error) error {
	if isNotExist(err) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

type storedFile struct {
	*os.File
	info  fs.FileInfo
	close func() error
}

func (f *storedFile) Size() int64        { return f.info.Size() }
func (f *storedFile) ModTime() time.Time { return f.info.ModTime() }
func (f *storedFile) Close() error       { return f.close() }

// Delete removes an object, and the folders that are empty afterwards.
func (f *Storage) Delete(ctx context.Context, key string) error {
	name, err := localName(key)
	if err != nil {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = f.exclusively(ctx, func() error {
		info, err := f.root.Lstat(name)
		if err != nil {
			return asNotExist(err)
		}
		if info.IsDir() {
			return fs.ErrNotExist
		}
		if err := f.root.Remove(name); err != nil {
			return err
		}
		f.prune(filepath.Dir(name))
		return nil
	})
	if err != nil {
		return fmt.Errorf("folder storage: delete %s: %w", key, err)
	}
	return nil
}

var (
	_ pikokms.ConditionalStorage = (*Storage)(nil)
	_ pikokms.RangeStorage       = (*Storage)(nil)
)
