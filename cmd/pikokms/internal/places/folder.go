package places

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/idle"
	"piko.sh/pikokms/folderstorage"
)

// folderObjects are the files of a folder and of those below it.
type folderObjects struct {
	idle.Folder // with a limit to how long it may stand still, as on a network file system
	folder      *folderstorage.Storage
	path        string
}

func (f *folderObjects) Close() error { return f.folder.Close() }

func (f *folderObjects) list(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		err := f.Walk(ctx, prefix, func(key string, kind fs.FileMode, err error) error {
			listed := Listed{Key: key, Size: -1}
			path := filepath.Join(f.path, filepath.FromSlash(key))
			switch {
			case err != nil:
			case kind == fs.ModeTemporary:
				listed.Left = leftUnfinished
			case kind != 0:
				listed.Left = leftOfFile(f.path, path, kind)
			default:
				if info, err := os.Lstat(path); err == nil {
					listed.Size, listed.Info = info.Size(), info
				}
				if isMetadata(path) {
					listed.Left = leftMetadata
				}
			}
			if !yield(listed, err) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Listed{}, err)
		}
	}
}

func (f *folderObjects) stat(ctx context.Context, key string) (Listed, error) {
	object, err := f.Open(ctx, key)
	if err != nil {
		return Listed{}, err
	}
	listed := Listed{Key: key, Size: object.Size()}
	if file, ok := object.(interface{ Stat() (os.FileInfo, error) }); ok {
		listed.Info, err = file.Stat()
	}
	return listed, errors.Join(err, object.Close())
}

func (f *folderObjects) open(ctx context.Context, key string) (pikokms.Object, error) {
	return f.Open(ctx, key)
}

func (f *folderObjects) read(ctx context.Context, key string) (*opened, error) {
	content, err := f.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: content, Length: -1}
	if object, ok := content.(pikokms.Object); ok {
		s.Length, s.ModTime = object.Size(), object.ModTime()
	}
	if file, ok := content.(interface{ Stat() (os.FileInfo, error) }); ok {
		if s.File, err = file.Stat(); err != nil {
			return nil, errors.Join(err, content.Close())
		}
	}
	s.Replace = func(ctx context.Context, content io.Reader) error {
		return f.PutFunc(ctx, key, content, func(old fs.FileInfo, file *os.File) error { return files.Keep(file, old, s.File) })
	}
	return s, nil
}
