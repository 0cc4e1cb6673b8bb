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
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"piko.sh/pikokms/provider"
)

// fileTable is a table in one file, a database of bbolt. Several processes can use it at once,
// since each operation opens it anew.
type fileTable struct {
	path string

	mu      sync.Mutex
	checked os.FileInfo // of the file when its pages were checked
}

func newFile(path string) *fileTable { return &fileTable{path: path} }

// fileWait is how long an operation waits for another process that has the file open.
const fileWait = 10 * time.Second

// fileBucket has the items in JSON, by branch key ID, a zero byte, and type.
var fileBucket = []byte("items")

// Name implements table with the name of the file, without its folder. So the logical name that is
// made of it stays when the folder is moved.
func (f *fileTable) Name() string { return filepath.Base(f.path) }

// place implements placed.
func (f *fileTable) place() string {
	path, err := filepath.Abs(f.path)
	if err != nil {
		path = f.path // without a working folder, as good as any other
	}
	return "file:" + path
}

// Create implements table. Only the file's owner can read it.
func (f *fileTable) Create(ctx context.Context) error {
	return f.update(ctx, func(tx *bbolt.Tx) error {
		if tx.Bucket(fileBucket) == nil && hasBuckets(tx) {
			return f.otherFileError("it is a database of something else")
		}
		_, err := tx.CreateBucketIfNotExists(fileBucket)
		return err
	})
}

// Get implements table.
func (f *fileTable) Get(ctx context.Context, id, kind string) (item tableItem, err error) {
	err = f.view(ctx, func(items *bbolt.Bucket) error {
		text := items.Get(fileKey(id, kind))
		if text == nil {
			return notFound(f, id, kind)
		}
		item, err = readFileItem(id, kind, text)
		return err
	})
	return item, err
}

// notFound returns the error for an item that a table does not have.
func notFound(t table, id, kind string) error {
	if version, ok := strings.CutPrefix(kind, kindVersion); ok {
		return fmt.Errorf("%w: table %s has no version %s of branch key %q; if it was deleted, restore it from a backup", provider.ErrKeyNotFound, t.Name(), version, id)
	}
	return fmt.Errorf("%w: table %s has no branch key %q", provider.ErrKeyNotFound, t.Name(), id)
}

// All implements table.
func (f *fileTable) All(ctx context.Context, id string) iter.Seq2[tableItem, error] {
	return f.items(ctx, fileKey(id, ""), func(string) bool { return true })
}

// Active implements table.
func (f *fileTable) Active(ctx context.Context) iter.Seq2[tableItem, error] {
	return f.items(ctx, nil, func(kind string) bool { return kind == kindActive })
}

// items yields the items of the types that include accepts, and whose keys begin with prefix. They
// are read at once, so that the file is closed while the caller looks at them.
func (f *fileTable) items(ctx context.Context, prefix []byte, include func(kind string) bool) iter.Seq2[tableItem, error] {
	return func(yield func(tableItem, error) bool) {
		type stored struct {
			id, kind string
			text     []byte
		}
		var all []stored
		err := f.view(ctx, func(items *bbolt.Bucket) error {
			cursor := items.Cursor()
			for key, text := cursor.Seek(prefix); bytes.HasPrefix(key, prefix) && key != nil; key, text = cursor.Next() {
				end := bytes.LastIndexByte(key, 0)
				if s := (stored{string(key[:max(0, end)]), string(key[end+1:]), text}); include(s.kind) {
					s.text = bytes.Clone(text)
					all = append(all, s)
				}
			}
			return nil
		})
		if err != nil {
			yield(tableItem{}, err)
			return
		}
		for _, s := range all {
			if !yield(readFileItem(s.id, s.kind, s.text)) {
				return
			}
		}
	}
}

// Write implements table.
func (f *fileTable) Write(ctx context.Context, writes []tableWrite) error {
	if err := f.checkExists(); err != nil {
		return err
	}
	return f.update(ctx, func(tx *bbolt.Tx) error {
		items, err := f.bucket(tx)
		if err != nil {
			return err
		}
		for _, w := range writes {
			id, kind := w.Item.Attributes[attributeID], w.Item.Attributes[attributeKind]
			key := fileKey(id, kind)
			if !meets(items.Get(key), w.Replaces) {
				return fmt.Errorf("%w: item %q of branch key %q", ErrConflict, kind, id)
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

// meets reports whether the condition of a write holds for the text that is stored now.
func meets(text, replaces []byte) bool {
	if text == nil || replaces == nil {
		return text == nil && replaces == nil
	}
	var item tableItem
	return json.Unmarshal(text, &item) == nil && bytes.Equal(item.Enc, replaces)
}

func fileKey(id, kind string) []byte { return []byte(id + "\x00" + kind) }

// readFileItem returns the item of a text. The error holds ErrDamaged; the item then has its keys
// alone.
func readFileItem(id, kind string, text []byte) (item tableItem, err error) {
	if err = json.Unmarshal(text, &item); err == nil {
		return item, nil
	}
	if !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	keys := tableItem{Attributes: map[string]string{attributeID: id, attributeKind: kind}}
	return keys, fmt.Errorf("branch key %q, item %q: %w", id, kind, err)
}

// view reads the file.
func (f *fileTable) view(ctx context.Context, read func(items *bbolt.Bucket) error) error {
	if err := errors.Join(ctx.Err(), f.checkExists()); err != nil {
		return err
	}
	return f.open(&bbolt.Options{Timeout: fileWait, ReadOnly: true}, func(db *bbolt.DB) error {
		return db.View(func(tx *bbolt.Tx) error {
			items, err := f.bucket(tx)
			if err != nil {
				return err
			}
			return read(items)
		})
	})
}

// update changes the file, which it makes if there is none.
func (f *fileTable) update(ctx context.Context, change func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.checkExists() == nil {
		// bbolt opened read-only reads no more than the first two pages, so that open can check all
		// of them before bbolt reads a damaged one.
		if err := f.open(&bbolt.Options{Timeout: fileWait, ReadOnly: true}, func(*bbolt.DB) error { return nil }); err != nil {
			return err
		}
	}
	return f.open(&bbolt.Options{Timeout: fileWait}, func(db *bbolt.DB) error { return db.Update(change) })
}

// erase implements eraser. It overwrites the pages that no item is in.
func (f *fileTable) erase(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), f.checkExists()); err != nil {
		return err
	}
	// While it is open for writing, nobody else changes it.
	return f.open(&bbolt.Options{Timeout: fileWait}, func(*bbolt.DB) error {
		file, err := os.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := eraseFree(file); err != nil {
			return errors.Join(fmt.Errorf("erasing the free pages of %s: %w", f.path, err), file.Close())
		}
		return errors.Join(file.Sync(), file.Close())
	})
}

// check checks the pages of the file, which no process changes meanwhile, unless they are those
// that were checked before.
func (f *fileTable) check() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close() // only read
	now, err := file.Stat()
	if err != nil {
		return err
	}
	f.mu.Lock()
	last := f.checked
	f.mu.Unlock()
	if last != nil && os.SameFile(last, now) && last.Size() == now.Size() && last.ModTime().Equal(now.ModTime()) {
		return nil
	}
	if err := checkPages(file); err != nil {
		return f.otherFileError(fmt.Sprintf("its pages are damaged: %v", err))
	}
	f.mu.Lock()
	f.checked = now
	f.mu.Unlock()
	return nil
}

// bucket returns the bucket with the items.
func (f *fileTable) bucket(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	items := tx.Bucket(fileBucket)
	switch {
	case items != nil:
		return items, nil
	case hasBuckets(tx):
		return nil, f.otherFileError("it is a database of something else")
	}
	return nil, f.missingError(nil)
}

func hasBuckets(tx *bbolt.Tx) bool {
	name, _ := tx.Cursor().First()
	return name != nil
}

// otherFileError returns the error for a file that is not a table of branch keys.
func (f *fileTable) otherFileError(what string) error {
	return fmt.Errorf("%w: the file %s is no table of branch keys: %s; name the file that Create made, or get it from a backup", provider.ErrInvalidKey, f.path, what)
}

// checkExists returns an error if there is no file, since bbolt would make one.
func (f *fileTable) checkExists() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.missingError(err)
	case err == nil && info.Mode().IsRegular() && info.Size() == 0:
		return f.missingError(nil)
	}
	return nil
}

func (f *fileTable) missingError(cause error) error {
	err := fmt.Errorf("%w: file %s has none; create it", ErrNoTable, f.path)
	if cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

func (f *fileTable) open(options *bbolt.Options, use func(*bbolt.DB) error) (err error) {
	// bbolt panics at a damaged page, and beyond the end of a file that was cut.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = f.otherFileError(fmt.Sprintf("its pages are damaged: %v", fault))
		}
	}()
	if info, err := os.Stat(f.path); err == nil && info.IsDir() {
		return f.otherFileError("it is a folder")
	}
	db, err := bbolt.Open(f.path, 0o600, options)
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("%w: another process has had the file %s open for %v; try again when it has ended", provider.ErrProviderUnavailable, f.path, fileWait)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w (%w)", f.otherFileError("it is no database"), err)
	case err != nil:
		return fmt.Errorf("opening the table %s: %w", f.path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if options.ReadOnly {
		if err := f.check(); err != nil {
			return err
		}
	}
	return use(db)
}

var _ table = (*fileTable)(nil)
