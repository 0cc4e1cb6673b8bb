package command

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/idle"
)

// folderObjects are the files of a folder and of those below it.
type folderObjects struct {
	idle.Folder // with a limit to how long it may stand still, as on a network file system
	folder      *pikokms.Folder
	path        string
}

// Close implements io.Closer.
func (f *folderObjects) Close() error { return f.folder.Close() }

// openFolder opens a folder, or makes it.
func openFolder(path string) (*place, error) {
	folder, err := pikokms.NewFolder(path)
	if err != nil {
		return nil, err
	}
	limited := idle.Limit(folder, storageTimeout)
	return &place{name: path, objects: &folderObjects{limited, folder, path}}, nil
}

func (f *folderObjects) list(ctx context.Context, prefix string) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		for entry, err := range f.Entries(ctx, prefix) {
			one := listed{key: entry.Key, size: -1}
			path := filepath.Join(f.path, filepath.FromSlash(entry.Key))
			switch {
			case err != nil:
			case entry.Unfinished:
				one.left = leftUnfinished
			case entry.Type != 0:
				one.left = leftOfFile(f.path, path, entry.Type)
			default:
				if info, err := os.Lstat(path); err == nil {
					one.size, one.info = info.Size(), info
				}
				if isMetadata(path) {
					one.left = leftMetadata
				}
			}
			if !yield(one, err) {
				return
			}
		}
	}
}

func (f *folderObjects) stat(ctx context.Context, key string) (listed, error) {
	object, err := f.Open(ctx, key)
	if err != nil {
		return listed{}, err
	}
	one := listed{key: key, size: object.Size()}
	if file, ok := object.(interface{ Stat() (os.FileInfo, error) }); ok {
		one.info, err = file.Stat()
	}
	return one, errors.Join(err, object.Close())
}

func (f *folderObjects) open(ctx context.Context, key string) (pikokms.Object, error) {
	return f.Open(ctx, key)
}

func (f *folderObjects) read(ctx context.Context, key string) (*opened, error) {
	content, err := f.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: content, size: -1}
	if object, ok := content.(pikokms.Object); ok {
		s.size, s.modTime = object.Size(), object.ModTime()
	}
	if file, ok := content.(interface{ Stat() (os.FileInfo, error) }); ok {
		if s.file, err = file.Stat(); err != nil {
			return nil, errors.Join(err, content.Close())
		}
	}
	s.replace = func(ctx context.Context, content io.Reader) error {
		return f.PutFunc(ctx, key, content, func(old fs.FileInfo, file *os.File) error { return keep(file, old, s.file) })
	}
	return s, nil
}
