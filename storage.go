package pikokms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Storage stores objects under slash-separated keys. Implementations are safe for concurrent use.
// A Host looks by type assertion for what a Storage can do besides: read ranges, as a RangeStorage,
// and replace on a condition, as a ConditionalStorage. If what Get or Open returns is a
// [s3ec.Stored], the Host asks it whether AWS's S3 Encryption Client wrote the object.
//
// Host.Rewrap and Host.Migrate read an object and put it back. On a Storage that is no
// ConditionalStorage, they overwrite what others put meanwhile, and bring back what others delete.
type Storage interface {
	// Put stores what content holds, and replaces an object of that key in one step. If content or
	// the storage fails, or ctx ends, nothing of it is left behind and an earlier object stays.
	Put(ctx context.Context, key string, content io.Reader) error

	// Get returns an object's content. The error holds fs.ErrNotExist if there is no such object.
	Get(ctx context.Context, key string) (io.ReadCloser, error)

	// Delete removes an object. The error holds fs.ErrNotExist if there is no such object.
	Delete(ctx context.Context, key string) error

	// List yields the keys that begin with prefix, in any order, and stops at the first error.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// noStorage is the storage of a host that has none.
type noStorage struct{}

var errNoStorage = fmt.Errorf("%w: no storage; give one with WithStorage", ErrConfig)

func (noStorage) Put(context.Context, string, io.Reader) error       { return errNoStorage }
func (noStorage) Get(context.Context, string) (io.ReadCloser, error) { return nil, errNoStorage }
func (noStorage) Open(context.Context, string) (Object, error)       { return nil, errNoStorage }
func (noStorage) Delete(context.Context, string) error               { return errNoStorage }
func (noStorage) List(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", errNoStorage) }
}

// ErrChanged means that an object was replaced or deleted since it was read. It was left as it is.
var ErrChanged = errors.New("object was changed meanwhile")

// ConditionalStorage is a Storage that can replace an object on the condition that it is unchanged
// since it was read. With one, a Host moves objects without undoing what others do to them.
type ConditionalStorage interface {
	Storage

	// GetVersion is Get, and also returns the object's version, such as an ETag, a generation or an
	// inode. It stays valid at least until content is closed.
	GetVersion(ctx context.Context, key string) (content io.ReadCloser, version string, err error)

	// PutIf is Put for an object that still has this version. The error holds ErrChanged if the
	// object was replaced or deleted since.
	PutIf(ctx context.Context, key, version string, content io.Reader) error
}

// RangeStorage is a Storage whose objects can be read in ranges. With one, a Host opens objects for
// random access.
type RangeStorage interface {
	Storage

	// Open opens an object for random access. The error holds fs.ErrNotExist if there is no such
	// object. When ctx ends, reads fail. If an object is replaced while it is open, reads give the
	// old one or fail, even if the new one has the same size and time.
	Open(ctx context.Context, key string) (Object, error)
}

// Object is an object that is open for random access: a stored one of a RangeStorage, or the
// original of one, as Host.Open returns it. Read and Seek are for one goroutine. The rest is safe
// for concurrent use. http.ServeContent takes an Object.
type Object interface {
	io.ReadSeekCloser // a second Close returns the first one's result
	io.ReaderAt
	Size() int64        // in bytes
	ModTime() time.Time // when the object was stored
}
