package branchkey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"piko.sh/pikokms/provider"
)

// File is a Table in one file, for development, tests and single machines. The file is a database
// of bbolt. Several processes can use it at once, since each operation opens it anew.
type File struct{ path string }

// fileWait is how long an operation waits for another process that has the file open.
const fileWait = 10 * time.Second

// fileBucket has the items in JSON, by branch key ID, a zero byte, and type.
var fileBucket = []byte("items")

// NewFile makes a File. It does not open the file, which Create makes.
func NewFile(path string) *File { return &File{path} }

// Name implements Table with the name of the file, without its folder. So the logical name that is
// made of it stays when the folder is moved.
func (f *File) Name() string { return filepath.Base(f.path) }

// Create implements Table. Only the file's owner can read it.
func (f *File) Create(ctx context.Context) error {
	return f.update(ctx, func(tx *bbolt.Tx) error {
		if tx.Bucket(fileBucket) == nil && hasBuckets(tx) {
			return f.isOther("it is a database of something else")
		}
		_, err := tx.CreateBucketIfNotExists(fileBucket)
		return err
	})
}

// Get implements Table.
func (f *File) Get(ctx context.Context, id, kind string) (item Item, err error) {
	err = f.view(ctx, func(items *bbolt.Bucket) error {
		text := items.Get(fileKey(id, kind))
		if text == nil {
			return notFound(f, id, kind)
		}
		item, err = readFileItem(text)
		return err
	})
	return item, err
}

// notFound returns the error for an item that a table does not have.
func notFound(t Table, id, kind string) error {
	if version, ok := strings.CutPrefix(kind, kindVersion); ok {
		return fmt.Errorf("%w: table %s has no version %s of branch key %q", provider.ErrKeyNotFound, t.Name(), version, id)
	}
	return fmt.Errorf("%w: table %s has no branch key %q", provider.ErrKeyNotFound, t.Name(), id)
}

// All implements Table.
func (f *File) All(ctx context.Context, id string) (all []Item, err error) {
	err = f.view(ctx, func(items *bbolt.Bucket) error {
		prefix := fileKey(id, "")
		cursor := items.Cursor()
		for key, text := cursor.Seek(prefix); bytes.HasPrefix(key, prefix); key, text = cursor.Next() {
			item, err := readFileItem(text)
			if err != nil {
				return err
			}
			all = append(all, item)
		}
		return nil
	})
	return all, err
}

// Active implements Table.
func (f *File) Active(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		all := make(map[string][]byte) // the items' JSON by branch key ID
		err := f.view(ctx, func(items *bbolt.Bucket) error {
			return items.ForEach(func(key, text []byte) error {
				if id, active := strings.CutSuffix(string(key), "\x00"+kindActive); active {
					all[id] = bytes.Clone(text)
				}
				return nil
			})
		})
		if err != nil {
			yield(Item{}, err)
			return
		}
		for id, text := range all { // the file is closed while the caller looks at an item
			item, err := readFileItem(text)
			if err != nil {
				item = Item{Attributes: map[string]string{attributeID: id, attributeKind: kindActive}}
			}
			if !yield(item, err) {
				return
			}
		}
	}
}

// Write implements Table.
func (f *File) Write(ctx context.Context, writes []Write) error {
	if err := f.exists(); err != nil {
		return err
	}
	return f.update(ctx, func(tx *bbolt.Tx) error {
		items, err := f.items(tx)
		if err != nil {
			return err
		}
		for _, w := range writes {
			id, kind := w.Item.Attributes[attributeID], w.Item.Attributes[attributeKind]
			key := fileKey(id, kind)
			if err := meets(items.Get(key), w.Replaces); err != nil {
				return fmt.Errorf("%w: item %q of branch key %q", err, kind, id)
			}
			text, err := json.Marshal(w.Item)
			if err != nil {
				return err
			}
			if err := items.Put(key, text); err != nil {
				return err
			}
		}
		return nil
	})
}

// meets checks the condition of a write on what is stored now.
func meets(stored, replaces []byte) error {
	if stored == nil && replaces == nil {
		return nil
	}
	if stored == nil || replaces == nil {
		return ErrConflict
	}
	item, err := readFileItem(stored)
	if err == nil && !bytes.Equal(item.Enc, replaces) {
		err = ErrConflict
	}
	return err
}

func fileKey(id, kind string) []byte { return []byte(id + "\x00" + kind) }

func readFileItem(text []byte) (item Item, err error) {
	if err = json.Unmarshal(text, &item); err != nil && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return item, err
}

// view reads the file.
func (f *File) view(ctx context.Context, read func(items *bbolt.Bucket) error) error {
	if err := errors.Join(ctx.Err(), f.exists()); err != nil {
		return err
	}
	return f.open(&bbolt.Options{Timeout: fileWait, ReadOnly: true}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			items, err := f.items(tx)
			if err != nil {
				return err
			}
			return read(items)
		})
	})
}

// update changes the file, which it makes if there is none.
func (f *File) update(ctx context.Context, change func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.open(&bbolt.Options{Timeout: fileWait}, func(db *bbolt.DB) error { return db.Update(change) })
}

// items returns the bucket with the items.
func (f *File) items(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	items := tx.Bucket(fileBucket)
	switch {
	case items != nil:
		return items, nil
	case hasBuckets(tx):
		return nil, f.isOther("it is a database of something else")
	}
	return nil, f.missing(nil)
}

func hasBuckets(tx *bbolt.Tx) bool {
	name, _ := tx.Cursor().First()
	return name != nil
}

// isOther returns the error for a file that is something else.
func (f *File) isOther(what string) error {
	return fmt.Errorf("%w: the file %s is no table of branch keys: %s; name the file that Create made, or get it from a backup", provider.ErrInvalidKey, f.path, what)
}

// exists keeps bbolt from making a file where there is none.
func (f *File) exists() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.missing(err)
	case err == nil && info.Mode().IsRegular() && info.Size() == 0:
		return f.missing(nil)
	}
	return nil
}

func (f *File) missing(cause error) error {
	err := fmt.Errorf("%w: file %s has none; create it", ErrNoTable, f.path)
	if cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func (f *File) open(options *bbolt.Options, use func(*bbolt.DB) error) (err error) {
	// What is wrong with a page, or beyond the end of a file that was cut, bbolt says by a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = f.isOther(fmt.Sprintf("its pages are damaged: %v", fault))
		}
	}()
	if info, err := os.Stat(f.path); err == nil && info.IsDir() {
		return f.isOther("it is a folder")
	}
	db, err := bbolt.Open(f.path, 0o600, options)
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("%w: another process has had the file %s open for %v", provider.ErrProviderUnavailable, f.path, fileWait)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w (%w)", f.isOther("it is no database"), err)
	case err != nil:
		return fmt.Errorf("opening the table %s: %w", f.path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return use(db)
}

var _ Table = (*File)(nil)
