package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/storage"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/gcsblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/s3storage"
	"piko.sh/pikokms/transfer"
)

// openCloud opens the bucket of a URL in GCS or Azure, and returns the key of the one object that
// it names, if it names one. Gocloud.dev knows URLs and credentials. Names and metadata it changes,
// so objects are worked on by the client that it made.
func openCloud(ctx context.Context, u *url.URL) (_ objects, only string, err error) {
	at := *u
	var prefix string
	prefix, only = keyOf(u)
	at.Path, at.RawPath = "", ""
	if u.Scheme == "gs" { // gocloud.dev v0.49.0 warns on standard output that there are no credentials
		stdout := os.Stdout
		os.Stdout = os.Stderr
		defer func() { os.Stdout = stdout }()
	}
	bucket, err := openBlob(ctx, &at)
	if err != nil {
		return nil, "", err
	}
	var az *container.Client
	var gcs *storage.Client
	switch {
	case bucket.As(&az):
		return &azureObjects{bucket: bucket, client: az, prefix: prefix}, only, nil
	case bucket.As(&gcs):
		return &gcsObjects{bucket: bucket, handle: gcs.Bucket(u.Host), prefix: prefix}, only, nil
	}
	return nil, "", errors.Join(errors.New("gocloud.dev gave no client of this cloud"), bucket.Close())
}

// newOpenObject opens an object whose first bytes are on their way. It reads no more than those.
func newOpenObject(first io.ReadCloser, size int64, modTime time.Time, fetch func(offset, length int64) (io.ReadCloser, error)) (pikokms.Object, error) {
	start := make([]byte, min(size, pikokms.ProbeSize))
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
	return pikokms.NewRangeObject(size, modTime, start, fetch), nil
}

// undecoded makes clients get objects as they are stored. Without a header of ours net/http
// decompresses.
func undecoded(ctx context.Context) context.Context {
	return azurepolicy.WithHTTPHeader(ctx, http.Header{"Accept-Encoding": {"identity"}})
}

// headersOf returns what an object has that each cloud knows. Metadata are as they are stored.
func headersOf(from *opened) s3storage.Headers {
	var h s3storage.Headers
	switch a := from.attributes; {
	case from.version != nil:
		h = from.version.Headers()
	case a != nil:
		h = s3storage.Headers{
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

// allowedLosses are the kinds of losses that a replacement may have.
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

// LossTime is the kind of loss of a time that an object has of its own.
const LossTime = "time"

// wholeListing checks that a listing is whole, as far as the cloud's client lets that be seen.
type wholeListing struct {
	prefix  string
	ordered bool // by the bytes of names
	last    string
	tokens  map[string]bool
}

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

// part takes note of the token of the next part, and of the first name of one.
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

// oneLine is the error of a cloud. Its client writes it on many lines.
type oneLine struct {
	text  string
	cause error
}

// Error implements error.
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
