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
		for entry, err := range f.Entries(ctx, prefix) {
			if (err != nil || entry.isObject()) && !yield(entry.Key, err) {
				return
			}
		}
	}
}

// Entry is an entry of a folder: an object, or something that List does not yield.
type Entry struct {
	Key string // ends in a slash if it is a folder's

	// Type is the type of the file: 0 for an object, [fs.ModeDir] for an empty folder, and another
	// one for a symbolic link, a named pipe, a socket, a device or any other irregular file.
	Type fs.FileMode

	// Unfinished marks the file of a Put that has not ended, in this process or another.
	Unfinished bool
}

func (e *Entry) isObject() bool { return e.Type == 0 && !e.Unfinished }

// Entries yields the objects as List does, and among them what List leaves out. Only empty folders
// are entries. The errors are List's.
func (f *Storage) Entries(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if _, err := f.list(ctx, "", prefix, yield); err != nil {
			yield(Entry{}, fmt.Errorf("folder storage: list %q: %w", prefix, err))
		}
	}
}

// list yields the entries whose keys begin with prefix and with dir, which is empty or ends in a
// slash. It returns false if yield did.
func (f *Storage) list(ctx context.Context, dir, prefix string, yield func(Entry, error) bool) (more bool, err error) {
	here, err := f.names(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		return true, nil // it was removed meanwhile
	}
	if err != nil && dir != "" {
		return yield(Entry{Key: dir}, fmt.Errorf("folder storage: list %q: %w", dir, err)), nil
	}
	if err != nil {
		return false, err
	}
	if len(here.starts) == 0 && dir != "" && strings.HasPrefix(dir, prefix) {
		return yield(Entry{Key: dir, Type: fs.ModeDir}, nil), nil
	}
	for i := range here.starts {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		name := string(here.name(i))
		key := dir + name
		switch below := strings.HasSuffix(name, "/"); {
		case below && (strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key)):
			more, err = f.list(ctx, key, prefix, yield)
		case below:
			continue
		case isTemporary(name) && f.sweep(filepath.FromSlash(key)), !strings.HasPrefix(key, prefix):
			continue
		default:
			more = yield(Entry{key, here.types[i], isTemporary(name)}, nil)
		}
		if !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// names holds the names of a folder's entries, in lexical order. Names of folders end in a slash.
// All are in one piece of memory: a folder may have a million, for which fs.ReadDir takes hundreds
// of MiB.
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
