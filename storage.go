package pikokms

import (
	"context"
	"io"
	"iter"
)

// Storage stores objects under slash-separated keys. Implementations are safe for concurrent use.
type Storage interface {
	// Put stores what content holds, replacing an object of that key in one step. When content or the storage fails, or
	// ctx ends, nothing of it is left behind and an earlier object stays.
	Put(ctx context.Context, key string, content io.Reader) error

	// Get returns an object's content. The error holds fs.ErrNotExist when there is no such object.
	Get(ctx context.Context, key string) (io.ReadCloser, error)

	// Delete removes an object. The error holds fs.ErrNotExist when there is no such object.
	Delete(ctx context.Context, key string) error

	// List yields the keys that begin with prefix, in any order, and stops at the first error.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}
