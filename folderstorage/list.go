package folderstorage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"sort"
	"strings"
)

// List yields the keys in lexical order. A folder below that cannot be read is an error with that
// folder's key, which ends in a slash. A caller that goes on then gets the rest. All other errors
// come without a key, and are the last.
func (f *Storage) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := f.Walk(ctx, prefix, func(key string, kind fs.FileMode, err error) error {
			if (err != nil || kind == 0) && !yield(key, err) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", err)
		}
	}
}

// Walk calls visit for the objects and for whatever else is in the folder, in the order of List.
// The kind is 0 for an object, [fs.ModeDir] for an empty folder, whose key ends in a slash,
// [fs.ModeTemporary] for the file of a Put that has not ended, in this process or another, and
// otherwise the type of the file, such as [fs.ModeSymlink]. For a folder below that cannot be read,
// visit gets its key and an error.
//
// If visit returns an error, Walk stops and returns it, or nil if it is [fs.SkipAll].
func (f *Storage) Walk(ctx context.Context, prefix string, visit func(key string, kind fs.FileMode, err error) error) error {
	var stopped error
	err := f.walk(ctx, "", prefix, func(key string, kind fs.FileMode, err error) error {
		stopped = visit(key, kind, err)
		return stopped
	})
	switch {
	case stopped == fs.SkipAll:
		return nil
	case err == nil || stopped != nil:
		return stopped
	}
	return fmt.Errorf("folder storage: list %q: %w", prefix, err)
}

// walk calls visit for what has keys that begin with prefix and with dir, which is empty or ends in
// a slash. It stops at visit's first error.
func (f *Storage) walk(ctx context.Context, dir, prefix string, visit func(key string, kind fs.FileMode, err error) error) error {
	here, err := f.names(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		return nil // it was removed meanwhile
	}
	if err != nil && dir != "" {
		return visit(dir, fs.ModeDir, fmt.Errorf("folder storage: list %q: %w", dir, err))
	}
	if err != nil {
		return err
	}
	if len(here.starts) == 0 && dir != "" && strings.HasPrefix(dir, prefix) {
		return visit(dir, fs.ModeDir, nil)
	}
	for i := range here.starts {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := string(here.name(i))
		key := dir + name
		switch below := strings.HasSuffix(name, "/"); {
		case below && (strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key)):
			err = f.walk(ctx, key, prefix, visit)
		case below:
			continue
		case isTemporary(name) && f.sweep(filepath.FromSlash(key)), !strings.HasPrefix(key, prefix):
			continue
		case isTemporary(name):
			err = visit(key, fs.ModeTemporary, nil)
		default:
			err = visit(key, here.types[i], nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// names holds the names of a folder's entries, in lexical order. Names of folders end in a slash.
// All names are in one slice, since a folder may have a million of them, for which fs.ReadDir takes
// hundreds of MiB.
type names struct {
	text   []byte
	starts []int // of each name in text
	ends   []int
	types  []fs.FileMode
}

func (n *names) name(i int) []byte  { return n.text[n.starts[i]:n.ends[i]] }
func (n *names) Len() int           { return len(n.starts) }
func (n *names) Less(i, j int) bool { return bytes.Compare(n.name(i), n.name(j)) < 0 }

func (n *names) Swap(i, j int) {
	n.starts[i], n.starts[j] = n.starts[j], n.starts[i]
	n.ends[i], n.ends[j] = n.ends[j], n.ends[i]
	n.types[i], n.types[j] = n.types[j], n.types[i]
}

// names returns the names of the entries of a folder below the root.
func (f *Storage) names(dir string) (*names, error) {
	folder, err := f.root.Open(filepath.FromSlash("./" + dir))
	if err != nil {
		return nil, err
	}
	defer folder.Close() // only read
	n := new(names)
	for {
		entries, err := folder.ReadDir(1000)
		for _, entry := range entries {
			n.starts = append(n.starts, len(n.text))
			n.text = append(n.text, entry.Name()...)
			if entry.IsDir() {
				n.text = append(n.text, '/')
			}
			n.ends = append(n.ends, len(n.text))
			n.types = append(n.types, entry.Type())
		}
		if err == io.EOF {
			sort.Sort(n)
			return n, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
