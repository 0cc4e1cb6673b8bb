package places

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/s3storage"
)

// azureBlob is a blob that is read.
type azureBlob struct {
	azure.GetPropertiesResponse
	container *container.Client
	name      string
}

// allowedLosses has the kinds of losses that a replacement may have.
type allowedLosses []string

// Refuse returns an error for the losses that are not allowed.
func (a allowedLosses) Refuse(losses []s3storage.Loss) error {
	var refused []string
	for _, loss := range losses {
		if !slices.Contains(a, loss.Kind) {
			refused = append(refused, loss.Kind+": "+loss.Reason)
		}
	}
	if refused == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", s3storage.ErrNotKept, strings.Join(refused, "; "))
}

// LossTime is the kind of loss for a time that an object has beside its modification time.
const LossTime = "time"

// paged is a store that lists what is directly below a folder, page by page.
type paged interface {
	// page returns at most n keys. Those that end in a slash may be of folders. The token is where
	// the page begins, or empty, and next is that of the page that follows, if one does.
	page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error)
}

// store holds the objects of a place. Keys are relative to the place, and may be empty.
type store interface {
	// list yields the objects that begin with a prefix, and what is left out there. An error with a
	// key, which ends in a slash, is that of a folder, and the rest follows.
	list(ctx context.Context, prefix string) iter.Seq2[Listed, error]
	// stat returns an object as a listing has it. The error holds fs.ErrNotExist if there is none.
	stat(ctx context.Context, key string) (Listed, error)
	// open opens an object for random access.
	open(ctx context.Context, key string) (pikokms.Object, error)
	// read opens an object to be read from its beginning.
	read(ctx context.Context, key string) (*opened, error)
	io.Closer
}

// bucketStore is a store in a bucket.
type bucketStore interface {
	store
	// put stores an object, with the properties of from. If replace is false and there is another
	// object, the error holds fs.ErrExist.
	put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error
	// setWriting sets how objects are put from now on.
	setWriting(w Writing)
}

// Listed is what a listing found.
type Listed struct {
	Key  string
	Size int64       // in bytes; -1 if it is not known
	Info os.FileInfo // of a file; nil if it is not known
	Left Left        // why it is no object
}

// IsMarker reports whether an object is an empty one that stands for a folder, as consoles of
// clouds make them.
func (l Listed) IsMarker() bool {
	return l.Size == 0 && (l.Key == "" || strings.HasSuffix(l.Key, "/"))
}

// opened is an object that is open to be read from its beginning.
type opened struct {
	io.ReadCloser
	Length  int64     // in bytes, or -1
	ModTime time.Time // zero if it has none
	File    os.FileInfo
	// Replace puts content in the object's place if the object is still the one that is read.
	// Otherwise the error holds pikokms.ErrChanged. It is nil for the one file and for standard input.
	Replace func(ctx context.Context, content io.Reader) error

	// NotKept returns what a replacement in its place could not keep. It is nil for a file, which
	// has no more than content.
	NotKept func(ctx context.Context) ([]s3storage.Loss, error)

	attributes *blob.Attributes // of an object in GCS, in Azure, or in a folder of gocloud.dev
	gcs        *storage.ObjectAttrs
	azure      *azureBlob
	version    *s3storage.Version // of an object in S3
	// clientHeader returns what is known of an object if the S3 Encryption Client wrote it. It is nil
	// outside S3.
	clientHeader func(ctx context.Context, beside bool) (*s3ec.Header, error)
	// remove removes the object if it is still the one that is read. It is nil outside S3.
	remove func(ctx context.Context) error
}

// keyOf returns the prefix of the keys that the URL of a bucket names, or the key of the one
// object.
func keyOf(u *url.URL) (prefix, only string) {
	prefix = strings.TrimPrefix(u.Path, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return "", prefix
	}
	return prefix, ""
}

// Writing configures how objects are put in buckets.
type Writing struct {
	Jobs       int
	SoleWriter bool
	Allowed    allowedLosses
}
