package pikokms

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// FS returns the objects of a host as a read-only file system, for http.FileServerFS, fs.WalkDir
// and template.ParseFS. The parts of a key between slashes are directories. Files are Objects, and
// opening one costs what Host.Open costs. Reading a directory lists all keys below it. When ctx
// ends, all calls fail.
//
// An object without random access, for which Host.Open returns ErrNotSeekable, opens as a file that
// is read forward by Host.Get. It is not an io.Seeker, so http.FileServerFS does not serve it. If
// its size is known only at its end, Stat reads the whole object once more.
//
// Errors are *fs.PathError, and hold those of Open, Get and List.
func (h *Host) FS(ctx context.Context) fs.FS { return &hostFS{ctx, h} }

type hostFS struct {
	ctx  context.Context
	host *Host
}

func (f *hostFS) Open(name string) (fs.File, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file, nil
}

func (f *hostFS) open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	if name != "." {
		object, err := f.host.Open(f.ctx, name)
		if err == nil {
			return &objectFile{object, fileInfo{name: path.Base(name), size: object.Size(), modTime: object.ModTime()}}, nil
		}
		if errors.Is(err, ErrNotSeekable) {
			content, forwardErr := f.host.Get(f.ctx, name)
			if forwardErr == nil {
				return &forwardFile{content, f, name}, nil
			}
			err = forwardErr
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	entries, err := f.readDir(name)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 && name != "." {
		return nil, fs.ErrNotExist
	}
	return &directory{info: fileInfo{name: path.Base(name), dir: true}, path: name, entries: entries}, nil
}

// readDir returns the entries of a directory, sorted by name.
func (f *hostFS) readDir(name string) ([]fs.DirEntry, error) {
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	found := make(map[string]bool) // the values say whether the name is a directory
	for key, err := range f.host.List(f.ctx, prefix) {
		if err != nil {
			return nil, err
		}
		if !fs.ValidPath(key) {
			continue // a key that is no path of a file system can't be opened
		}
		child, _, deeper := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		// If an object and a directory have one name, Open gives the object.
		if isDir, seen := found[child]; !seen || isDir {
			found[child] = deeper
		}
	}
	var entries []fs.DirEntry
	for child, isDir := range found {
		entries = append(entries, &entry{f, child, prefix + child, isDir})
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// entry is a file or a directory in a directory.
type entry struct {
	fs        *hostFS
	name, key string
	isDir     bool
}

func (e *entry) Name() string { return e.name }
func (e *entry) IsDir() bool  { return e.isDir }
func (e *entry) Type() fs.FileMode {
	return fileInfo{dir: e.isDir}.Mode().Type()
}

// Info takes the size that the object states, so it asks no key service, except for compressed and
// signed objects. If such an object has no random access, Info reads it to its end.
func (e *entry) Info() (fs.FileInfo, error) {
	if e.isDir {
		return fileInfo{name: e.name, dir: true}, nil
	}
	return e.fs.stat(e.key)
}

// stat returns the fs.FileInfo of an object, with its size.
func (f *hostFS) stat(key string) (fs.FileInfo, error) {
	info, err := f.host.statWhole(f.ctx, key)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: key, Err: err}
	}
	return info, nil
}

// statWhole returns the fs.FileInfo of an object. It decrypts an object that does not state its
// size.
func (h *Host) statWhole(ctx context.Context, key string) (fileInfo, error) {
	info := fileInfo{name: path.Base(key)}
	stored, err := h.openStored(ctx, "stat", key)
	if err == nil {
		if info, err = h.statStored(ctx, key, stored); err == nil && info.size < 0 {
			var original Object
			if original, err = h.OpenObject(ctx, key, stored, nil); err == nil {
				info.size = original.Size()
				err = original.Close()
			}
		}
		err = errors.Join(err, stored.Close())
	}
	if errors.Is(err, ErrNotSeekable) {
		info.size, err = h.count(ctx, key)
	}
	return info, err
}

// count returns the size in bytes of an object that it reads to its end.
func (h *Host) count(ctx context.Context, key string) (n int64, err error) {
	content, err := h.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	return io.Copy(io.Discard, content)
}

type fileInfo struct {
	name    string
	size    int64
	modTime time.Time
	dir     bool
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return i.modTime }
func (i fileInfo) IsDir() bool        { return i.dir }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

type objectFile struct {
	Object
	info fileInfo
}

func (f *objectFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// forwardFile is a file that is read from its beginning to its end.
type forwardFile struct {
	io.ReadCloser
	fs   *hostFS
	name string
}

func (f *forwardFile) Stat() (fs.FileInfo, error) { return f.fs.stat(f.name) }

// ReadFile reads a whole file, without asking for its size.
func (f *hostFS) ReadFile(name string) (b []byte, err error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if b, err = io.ReadAll(file); err != nil {
		err = asPathError("read", name, err)
	}
	return b, err
}

// asPathError wraps err in a *fs.PathError, unless it already holds one.
func asPathError(op, name string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

type directory struct {
	info    fileInfo
	path    string
	entries []fs.DirEntry // not read yet
}

func (d *directory) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *directory) Close() error               { return nil }
func (d *directory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errors.New("is a directory")}
}

func (d *directory) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.entries) {
		n = len(d.entries)
	}
	entries := d.entries[:n]
	d.entries = d.entries[n:]
	return entries, nil
}
