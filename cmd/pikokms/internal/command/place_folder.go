package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"piko.sh/pikokms"
)

// folderObjects are the files of a folder and of those below it.
type folderObjects struct {
	*pikokms.Folder
	path string
}

// openFolder opens a folder, or makes it.
func openFolder(path string) (*place, error) {
	folder, err := pikokms.NewFolder(path)
	if err != nil {
		return nil, err
	}
	return &place{name: path, objects: &folderObjects{folder, path}}, nil
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
	return listed{key: key, size: object.Size()}, object.Close()
}

func (f *folderObjects) open(ctx context.Context, key string) (pikokms.StoredObject, error) {
	return f.Open(ctx, key)
}

func (f *folderObjects) read(ctx context.Context, key string) (*opened, error) {
	content, version, err := f.GetVersion(ctx, key)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: content, size: -1}
	if object, ok := content.(pikokms.StoredObject); ok {
		s.size, s.modTime = object.Size(), object.ModTime()
	}
	s.replace = func(ctx context.Context, content io.Reader) error { return f.PutIf(ctx, key, version, content) }
	return s, nil
}

func (f *folderObjects) put(ctx context.Context, key string, _ *opened, content io.Reader, replace bool) error {
	if !replace {
		if _, err := f.stat(ctx, key); err == nil {
			return fmt.Errorf("%s: %w", key, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.Put(ctx, key, content)
}
