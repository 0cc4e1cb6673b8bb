package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/gcsblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/s3ec"
	"piko.sh/pikokms/transfer"
)

// newOpenObject returns an object that is open for random access. It reads the first bytes of the
// object from first, and leaves the rest to fetch.
func newOpenObject(first io.ReadCloser, size int64, modTime time.Time, fetch func(offset, length int64) (io.ReadCloser, error)) (pikokms.Object, error) {
	start := make([]byte, min(size, transfer.ProbeSize))
	n, err := io.ReadFull(transfer.NewReader(first), start)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, storageError{fmt.Errorf("after %d bytes: %w", n, errors.Join(err, first.Close())), true}
	}
	if err := first.Close(); err != nil {
		return nil, err
	}
	return transfer.NewRangeObject(size, modTime, start, fetch), nil
}

// undecoded returns a context in which Azure's client gets objects as they are stored. Without a
// header of ours net/http would decompress them.
func undecoded(ctx context.Context) context.Context {
	return azurepolicy.WithHTTPHeader(ctx, http.Header{"Accept-Encoding": {"identity"}})
}

// headersOf returns the properties of an object that every cloud has, with its metadata as they are
// stored.
func headersOf(from *opened) blob.Attributes {
	var h blob.Attributes
	switch v, a := from.version, from.attributes; {
	case v != nil:
		h = blob.Attributes{
			CacheControl: textOf(v.CacheControl), ContentDisposition: textOf(v.ContentDisposition), ContentEncoding: textOf(v.ContentEncoding),
			ContentLanguage: textOf(v.ContentLanguage), ContentType: textOf(v.ContentType), Metadata: maps.Clone(v.Metadata),
		}
		if v.S3EncryptionClient() { // it is stored decrypted
			h.Metadata = s3ec.WithoutMetadata(h.Metadata)
		}
	case a != nil:
		h = blob.Attributes{
			CacheControl: a.CacheControl, ContentDisposition: a.ContentDisposition, ContentEncoding: a.ContentEncoding,
			ContentLanguage: a.ContentLanguage, ContentType: a.ContentType, Metadata: maps.Clone(a.Metadata),
		}
	}
	if h.ContentType == "" {
		h.ContentType = "application/octet-stream"
	}
	if h.Metadata == nil {
		h.Metadata = make(map[string]string, 1)
	}
	return h
}

// wholeListing checks that a listing is whole, as far as the cloud's client lets that be seen.
type wholeListing struct {
	prefix  string
	ordered bool // whether names come in the order of their bytes
	last    string
	tokens  map[string]bool
}

// name checks that a name may follow those before it.
func (l *wholeListing) name(name string) error {
	switch {
	case !strings.HasPrefix(name, l.prefix):
		return fmt.Errorf("%w: a listing of %q has the name %q", blobstorage.ErrAnswer, l.prefix, name)
	case l.last != "" && (name == l.last || l.ordered && name < l.last):
		return fmt.Errorf("%w: in a listing, %q follows %q", blobstorage.ErrAnswer, name, l.last)
	}
	l.last = name
	return nil
}

// part notes the token of the next part of a listing, or the first name of a part. One that comes
// again is an error, since the listing would have no end.
func (l *wholeListing) part(token string) error {
	if token != "" && l.tokens[token] {
		return fmt.Errorf("%w: a listing gives the token or the name %q again, and has no end", blobstorage.ErrAnswer, token)
	}
	if l.tokens == nil {
		l.tokens = make(map[string]bool)
	}
	l.tokens[token] = true
	return nil
}

// oneLine is the error of a cloud's client on one line. The client writes it on many.
type oneLine struct {
	text  string
	cause error
}

func (e *oneLine) Error() string { return e.text }

// Unwrap returns the client's error.
func (e *oneLine) Unwrap() error { return e.cause }

func joinLines(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Trim(line, "-=") != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
