package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/storage"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob"
	_ "gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/gcsblob"
	_ "gocloud.dev/blob/s3blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/awslog"
	"piko.sh/pikokms/provider"
)

// Places says what IN and OUT may be besides files. It is a part of the usage of every command that
// works on several objects, and of its man page.
const Places = `
Folders and buckets:
  A PLACE is a file, a folder with all that is below it, or a bucket's URL:
    PATH                               a file, or a folder
    s3://BUCKET/PREFIX/?region=REGION  the objects of S3 below a prefix
    s3://BUCKET/KEY?region=REGION      one object
    gs://BUCKET/…  azblob://CONTAINER/…  file:///PATH
                                       the same in GCS, in Azure, and in a folder
                                       that gocloud.dev keeps, with metadata
  URLs have the parameters of gocloud.dev: endpoint, profile, use_path_style and
  so on. Credentials come from where each cloud's own tools take them.
  --include and --exclude take globs: * is any text without a slash, ** any text,
  ? one character. A glob without a slash is for the last part of a name.
  Symbolic links in folders are not followed. A folder that cannot be listed is
  named, and fails on its own; the rest goes on, and the exit status is 1.
  What is written into folders, also in place of a file that others could read, is
  readable by its owner alone (mode 0600).
`

// place is where objects are: standard input, a file, a folder or a bucket. A bucket, and a file,
// may be meant for one object alone.
type place struct {
	name   string // as given, without what is secret in it
	path   string // of the one file, if it is a file
	folder *pikokms.Folder
	bucket *blob.Bucket
	dir    string // of a bucket that gocloud.dev keeps in a folder: the one with its objects
	only   string // the key of the one object, if it is one of a bucket
}

// schemes are those of bucket URLs.
var schemes = []string{"s3", "gs", "azblob", "file"}

// openPlace opens what is to be read.
func openPlace(ctx context.Context, text string) (*place, error) {
	if text == "-" {
		return &place{name: "standard input"}, nil
	}
	if strings.Contains(text, "://") {
		return openBucket(ctx, text)
	}
	info, err := os.Stat(text)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return &place{name: text, path: text}, nil
	}
	folder, err := pikokms.NewFolder(text)
	if err != nil {
		return nil, err
	}
	return &place{name: text, folder: folder}, nil
}

func openBucket(ctx context.Context, text string) (*place, error) {
	u, err := parseURL(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("not a URL: %w", err)}
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, usageError{fmt.Errorf("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, strings.Join(schemes, ", "))}
	}
	p := &place{name: strings.TrimSuffix((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), "/")}
	prefix := ""
	if u.Scheme == "file" {
		if info, err := os.Stat(filepath.FromSlash(u.Path)); err == nil && !info.IsDir() {
			dir, key := filepath.Split(u.Path)
			u.Path, p.only = dir, key
		}
	} else {
		prefix = strings.TrimPrefix(u.Path, "/")
		u.Path = ""
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			p.only, prefix = prefix, ""
		}
	}
	// The AWS SDK else says on standard error of each object without a checksum that it has none.
	const checksums = "response_checksum_validation"
	if query := u.Query(); u.Scheme == "s3" && !query.Has(checksums) {
		query.Set(checksums, "when_required")
		u.RawQuery = query.Encode()
	}
	if u.Scheme == "gs" { // gocloud.dev v0.47.0 warns on standard output that there are no credentials
		stdout := os.Stdout
		os.Stdout = os.Stderr
		defer func() { os.Stdout = stdout }()
	}
	if p.bucket, err = blob.OpenBucket(ctx, u.String()); err != nil {
		if strings.Contains(err.Error(), u.String()) { // gocloud.dev's own text has all of it
			err = errors.New(strings.ReplaceAll(err.Error(), u.String(), provider.RedactURL(u.String())))
		}
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	var client *s3.Client
	if p.bucket.As(&client) { // gocloud.dev's URLs leave no other way to its logger
		awslog.Redirect(client.Options().Logger)
	}
	if prefix != "" {
		p.bucket = blob.PrefixedBucket(p.bucket, prefix)
	}
	if u.Scheme == "file" && p.only == "" {
		p.dir = folderOf(u)
	}
	return p, nil
}

// folderOf returns the folder with the objects of a bucket that gocloud.dev keeps in one. It is
// empty if the URL has a key, or a prefix that does not end in a slash.
func folderOf(u *url.URL) string {
	prefix := u.Query().Get("prefix")
	if u.Query().Has("key") || prefix != "" && !strings.HasSuffix(prefix, "/") {
		return ""
	}
	dir := u.Path
	if u.Host == "." || os.PathSeparator != '/' { // as fileblob.URLOpener does
		dir = strings.TrimPrefix(dir, "/")
	}
	return filepath.Join(filepath.FromSlash(dir), filepath.FromSlash(prefix))
}

// Close releases a place.
func (p *place) Close() error {
	switch {
	case p.bucket != nil:
		return p.bucket.Close()
	case p.folder != nil:
		return p.folder.Close()
	}
	return nil
}

// isMany tells whether a place may hold several objects.
func (p *place) isMany() bool { return p.folder != nil || p.bucket != nil && p.only == "" }

// mayBeEmpty tells whether a place is there though nothing is in it. A prefix of a bucket is not.
func (p *place) mayBeEmpty() bool {
	u, err := url.Parse(p.name)
	return p.folder != nil || p.dir != "" || p.isMany() && err == nil && u.Path == ""
}

func (p *place) isStandardInput() bool {
	return p.folder == nil && p.bucket == nil && p.path == ""
}

// base returns the last part of a place's name.
func (p *place) base() string {
	switch {
	case p.path != "":
		return filepath.Base(p.path)
	case p.folder != nil:
		return filepath.Base(absolute(p.name))
	}
	return path.Base(p.name)
}

// title returns the name of an object, for people.
func (p *place) title(key string) string {
	if !p.isMany() {
		return p.name
	}
	return strings.TrimSuffix(p.name, "/") + "/" + key
}

func (p *place) storage() pikokms.RangeStorage {
	if p.folder != nil {
		return p.folder
	}
	return blobstorage.New(p.bucket).WithReaderOptions(asStored)
}

// open opens an object for random access.
func (p *place) open(ctx context.Context, key string) (pikokms.StoredObject, error) {
	switch {
	case p.folder != nil || p.bucket != nil:
		return p.storage().Open(undecoded(ctx), key)
	case p.path == "":
		return nil, errors.New("standard input can only be read from its beginning; name a file")
	}
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s can only be read from its beginning; name a file", p.path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &openFile{f, info}, nil
}

// openFile is a pikokms.StoredObject.
type openFile struct {
	*os.File
	info os.FileInfo
}

func (f *openFile) Size() int64        { return f.info.Size() }
func (f *openFile) ModTime() time.Time { return f.info.ModTime() }

// asStored has GCS give objects of content encoding gzip as they are stored. It would decompress
// them, and what is encrypted is none of gzip's any more.
var asStored = &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error {
	var handle **storage.ObjectHandle
	if as(&handle) {
		*handle = (*handle).ReadCompressed(true)
	}
	return nil
}}

// undecoded has Azure's client do the same: without a header of ours net/http decompresses.
func undecoded(ctx context.Context) context.Context {
	return azurepolicy.WithHTTPHeader(ctx, http.Header{"Accept-Encoding": {"identity"}})
}

// source is an object that is read from its beginning to its end.
type source struct {
	*bufio.Reader
	close      func() error
	read       counter
	size       int64            // in bytes, or -1
	modTime    time.Time        // zero if it has none
	version    string           // of an object in a folder
	file       os.FileInfo      // of the one file
	attributes *blob.Attributes // of an object in a bucket
}

// peeked is how much of an object can be looked at before it is read.
const peeked = 64 << 10

// read opens an object to be read from its beginning.
func (p *place) read(ctx context.Context, key string) (*source, error) {
	s := &source{size: -1}
	var content io.ReadCloser
	var err error
	switch {
	case p.bucket != nil:
		if s.attributes, err = p.bucket.Attributes(ctx, key); err != nil {
			return nil, err
		}
		s.size, s.modTime = s.attributes.Size, s.attributes.ModTime
		content, err = p.bucket.NewReader(undecoded(ctx), key, asStored)
	case p.folder != nil:
		content, s.version, err = p.folder.GetVersion(ctx, key)
	case p.path != "":
		content, err = os.Open(p.path)
	default:
		content = io.NopCloser(os.Stdin)
	}
	if err != nil {
		return nil, err
	}
	switch c := content.(type) {
	case pikokms.StoredObject:
		s.size, s.modTime = c.Size(), c.ModTime()
	case *os.File:
		if info, err := c.Stat(); err == nil && info.Mode().IsRegular() {
			s.size, s.modTime, s.file = info.Size(), info.ModTime(), info
		}
	}
	s.close = sync.OnceValue(content.Close)
	s.read.r = content
	s.Reader = bufio.NewReaderSize(&s.read, peeked)
	return s, nil
}

// read opens an object to be read from its beginning, and has its bytes counted.
func (i item) read(ctx context.Context) (*source, error) {
	s, err := i.place.read(ctx, i.key)
	if err == nil {
		s.read.tell = i.tell
	}
	return s, err
}

// blame marks an error that came of an object of a bucket, and not of what it holds.
func (s *source) blame(err error) error {
	if s.attributes != nil && s.read.err != nil && errors.Is(err, s.read.err) {
		return lost{err}
	}
	return err
}

// Close releases what a source reads. A second Close returns the first one's result.
func (s *source) Close() error { return s.close() }

// start returns the first bytes of an object, as many as header.Sniff takes if there are as many.
func (s *source) start() ([]byte, error) {
	b, err := s.Peek(header.SniffSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// globs returns what matches one of the patterns.
func globs(patterns []string) (func(key string) bool, error) {
	var whole, last []*regexp.Regexp
	for _, pattern := range patterns {
		if pattern == "" {
			return nil, errors.New("an empty glob matches nothing")
		}
		if !utf8.ValidString(pattern) {
			return nil, fmt.Errorf("the glob %q is not UTF-8; ? stands for each such byte", pattern)
		}
		compiled := glob(pattern)
		if strings.Contains(pattern, "/") {
			whole = append(whole, compiled)
		} else {
			last = append(last, compiled)
		}
	}
	return func(key string) bool {
		matches := func(text string) func(*regexp.Regexp) bool {
			return func(r *regexp.Regexp) bool { return r.MatchString(text) }
		}
		base := key[strings.LastIndex(key, "/")+1:]
		return slices.ContainsFunc(whole, matches(key)) || slices.ContainsFunc(last, matches(base))
	}, nil
}

func glob(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString(`(?:.*/)?`)
			rest = rest[3:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		case rest[0] == '?':
			b.WriteString(`[^/]`)
			rest = rest[1:]
		default:
			n := strings.IndexAny(rest, "*?")
			if n < 0 {
				n = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			rest = rest[n:]
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}
