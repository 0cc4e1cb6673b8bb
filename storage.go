package pikokms

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Storage stores objects under slash-separated keys. Implementations are safe for concurrent use.
//
// A Host's Rewrap and Migrate read an object and put it back. On a Storage that is no
// ConditionalStorage they overwrite what others put, and bring back what others delete, meanwhile.
type Storage interface {
	// Put stores what content holds, replacing an object of that key in one step. When content or
	// the storage fails, or ctx ends, nothing of it is left behind and an earlier object stays.
	Put(ctx context.Context, key string, content io.Reader) error

	// Get returns an object's content. The error holds fs.ErrNotExist when there is no such object.
	Get(ctx context.Context, key string) (io.ReadCloser, error)

	// Delete removes an object. The error holds fs.ErrNotExist when there is no such object.
	Delete(ctx context.Context, key string) error

	// List yields the keys that begin with prefix, in any order, and stops at the first error.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// ErrChanged means that an object is no longer the one that was read: it was replaced or deleted
// meanwhile. It was left as it is.
var ErrChanged = errors.New("object was changed meanwhile")

// ConditionalStorage is a Storage that can replace an object only while it is the one that was
// read. A Host on one moves objects without undoing what others do to them at the same time.
type ConditionalStorage interface {
	Storage

	// GetVersion is Get, and names the version of the object that it gives: its ETag, its
	// generation or its inode. The name is good until content is closed at least.
	GetVersion(ctx context.Context, key string) (content io.ReadCloser, version string, err error)

	// PutIf is Put in the place of this version. The error holds ErrChanged when the object was
	// replaced or deleted since.
	PutIf(ctx context.Context, key, version string, content io.Reader) error
}

// RangeStorage is a Storage whose objects can be read in parts. A Host on one opens objects for
// random access.
type RangeStorage interface {
	Storage

	// Open returns an object for random access. The error holds fs.ErrNotExist when there is no
	// such object. ctx also ends the reads. Where an object is replaced while it is open, by one of
	// the same size and time even, reads give the old one or fail.
	Open(ctx context.Context, key string) (StoredObject, error)
}

// StoredObject is an object of a RangeStorage. ReadAt is safe for concurrent use.
type StoredObject interface {
	io.ReaderAt
	io.Closer
	Size() int64 // in bytes, as stored
	ModTime() time.Time
}

// SizedReaderAt is random access to something whose size is known. It is safe for concurrent use.
type SizedReaderAt interface {
	io.ReaderAt
	Size() int64 // in bytes
}
