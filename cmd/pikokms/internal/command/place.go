package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3storage"
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
  so on. Credentials come from where each cloud's own tools take them. Of a name in
  a URL, %, ? and # are written %25, %3F and %23. Where there is no object KEY, what
  is below KEY/ is meant. S3 also has request_payer=requester, and the ARN of an
  access point stands in place of BUCKET. An object whose name ends in a slash is one
  like others; only an empty one, which stands for a folder, is left out.
  --include and --exclude take globs: * is any text without a slash, ** any text,
  ? one character. A glob with a slash is for a whole name, as from the PLACE on,
  and one without for any part of it: a folder that it matches is taken or left out
  with all below it. One that ends in a slash is for folders alone.
  Symbolic links are not followed, and pipes, devices and the like are left out, as
  are empty folders. The last line counts what is left out, and --report names it.
  If it may hold content (a link to a file elsewhere), it is named, and the exit
  status is 1 unless --exclude leaves it out. A folder that cannot be listed fails
  on its own; the rest goes on, and the exit status is 1.
  What is written into folders is readable by its owner alone (mode 0600). Work in
  place keeps a file's owner, group, mode and modification time, but neither ACLs nor
  extended attributes; who could read what was encrypted can read what is decrypted.
`

// place is where objects are: standard input, a file, a folder or a bucket. A bucket, and a file,
// may be meant for one object alone.
type place struct {
	name    string  // as given, without what is secret in it
	path    string  // of the one file, if it is a file
	objects objects // of a folder or a bucket; otherwise nil
	only    string  // the key of the one object, if it is one of a bucket
	prefix  string  // of the keys of a bucket's objects
}

// objects is where several objects are. Keys are those below the place, and may be empty.
type objects interface {
	// list yields the objects that begin with a prefix, and what is left out there. An error with a
	// key, which ends in a slash, is that of a folder, and the rest follows.
	list(ctx context.Context, prefix string) iter.Seq2[listed, error]
	// stat returns what a listing says of an object. The error holds fs.ErrNotExist if there is
	// none.
	stat(ctx context.Context, key string) (listed, error)
	// open opens an object for random access.
	open(ctx context.Context, key string) (pikokms.Object, error)
	// read opens an object to be read from its beginning.
	read(ctx context.Context, key string) (*opened, error)
	io.Closer
}

// bucket is objects in a bucket.
type bucket interface {
	objects
	// put stores an object, with what from has beside its content. If another object may not be
	// replaced, and there is one, the error holds fs.ErrExist.
	put(ctx context.Context, key string, from *opened, content io.Reader, replace bool) error
	// setWriting sets how objects are put from now on.
	setWriting(w writing)
}

// listed is what a listing found.
type listed struct {
	key  string
	size int64       // in bytes; -1 if it is not known
	info os.FileInfo // of a file; nil if it is not known
	left left        // why it is no object
}

// isMarker tells whether an object is an empty one that stands for a folder, as consoles of clouds
// make them.
func (l listed) isMarker() bool {
	return l.size == 0 && (l.key == "" || strings.HasSuffix(l.key, "/"))
}

// opened is an object that is open to be read from its beginning.
type opened struct {
	io.ReadCloser
	size    int64     // in bytes, or -1
	modTime time.Time // zero if it has none
	file    os.FileInfo
	// replace puts content in the object's place if it is still what is read. Otherwise the error
	// holds pikokms.ErrChanged. It is nil for the one file and for standard input.
	replace func(ctx context.Context, content io.Reader) error

	// notKept returns what a replacement in its place could not keep. It is nil for a file, which
	// has no more than content.
	notKept func(ctx context.Context) ([]s3storage.Loss, error)

	attributes *blob.Attributes // of an object in GCS, in Azure, or in a folder of gocloud.dev
	gcs        *storage.ObjectAttrs
	azure      *azureBlob
	version    *s3storage.Version // of an object in S3
	// s3Client tells whether the S3 Encryption Client wrote the object though its metadata do not
	// say so. It is nil for what is not in S3.
	s3Client func(ctx context.Context, start []byte) (bool, error)
}

// schemes are those of bucket URLs.
var schemes = []string{"s3", "gs", "azblob", "file"}

// openPlace opens what is to be read.
func openPlace(ctx context.Context, text string) (*place, error) {
	if text == "-" {
		return &place{name: "standard input"}, nil
	}
	if strings.Contains(text, "://") {
		return openSource(ctx, text)
	}
	info, err := os.Stat(text)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return &place{name: text, path: text}, nil
	}
	return openFolder(text)
}

// openSource opens a bucket to read from. If there is no object of the name that its URL ends in,
// but some below that name, those are meant.
func openSource(ctx context.Context, text string) (*place, error) {
	p, err := openBucket(ctx, text)
	if err != nil || p.only == "" {
		return p, err
	}
	if _, err := p.objects.stat(ctx, p.only); !errors.Is(err, fs.ErrNotExist) {
		return p, nil // what else is wrong, the work on the object says
	}
	u, err := parsePlace(text)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	folder, err := openURL(ctx, below(u))
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	for _, err := range folder.objects.list(ctx, "") {
		if err == nil {
			return folder, p.Close()
		}
		break
	}
	return p, folder.Close()
}

// openBucket opens the bucket of a URL. A path without a slash at its end names one object.
func openBucket(ctx context.Context, text string) (*place, error) {
	u, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	return openURL(ctx, u)
}

// below returns the URL of what is below the name of an object.
func below(u *url.URL) *url.URL {
	folder := *u
	folder.Path, folder.RawPath = u.Path+"/", ""
	return &folder
}

func openURL(ctx context.Context, u *url.URL) (*place, error) {
	p := &place{name: strings.TrimSuffix(u.Scheme+"://"+u.Host+(&url.URL{Path: u.Path}).EscapedPath(), "/")}
	open := openCloud
	switch u.Scheme {
	case "s3":
		open = openS3
	case "file":
		open = openBlobs
	}
	var err error
	if p.objects, p.only, err = open(ctx, u); err != nil {
		err = withoutQuery(err, u)
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	if u.Scheme != "file" {
		p.prefix, _ = keyOf(u)
	}
	return p, nil
}

// parsePlace parses the URL of a bucket. In place of its name, the ARN of an access point of S3 may
// be the host, though it is none.
func parsePlace(text string) (*url.URL, error) {
	arn, rest := "", text
	if after, ok := strings.CutPrefix(text, "s3://"); ok {
		if arn = accessPoint.FindString(after); arn != "" {
			rest = "s3://" + strings.TrimPrefix(after, arn)
		}
	}
	u, err := parseURL(rest)
	if err != nil {
		return nil, usageError{fmt.Errorf("not a URL: %w", err)}
	}
	if arn != "" {
		u.Host = arn
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, usageError{fmt.Errorf("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, strings.Join(schemes, ", "))}
	}
	return u, nil
}

// keyOf returns the prefix of the keys that a URL of a bucket stands for, or the key of one object.
func keyOf(u *url.URL) (prefix, only string) {
	prefix = strings.TrimPrefix(u.Path, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return "", prefix
	}
	return prefix, ""
}

// withoutQuery returns an error that shows no secret of a URL's parameters. Texts of gocloud.dev
// have all of a URL.
func withoutQuery(err error, u *url.URL) error {
	if u.RawQuery == "" || !strings.Contains(err.Error(), u.RawQuery) {
		return err
	}
	_, shown, _ := strings.Cut(provider.RedactURL(u.String()), "?")
	return errors.New(strings.ReplaceAll(err.Error(), u.RawQuery, shown))
}

// Close releases a place.
func (p *place) Close() error {
	if p.objects == nil {
		return nil
	}
	return p.objects.Close()
}

// isMany tells whether a place may hold several objects.
func (p *place) isMany() bool { return p.objects != nil && p.only == "" }

// isBucket tells whether a place is in a bucket.
func (p *place) isBucket() bool {
	_, ok := p.objects.(bucket)
	return ok
}

// setWriting sets how objects are put, if the place is a bucket.
func (p *place) setWriting(w writing) {
	if b, ok := p.objects.(bucket); ok {
		b.setWriting(w)
	}
}

func (p *place) isStandardInput() bool { return p.objects == nil && p.path == "" }

// base returns the last part of a place's name.
func (p *place) base() string {
	switch {
	case p.path != "":
		return filepath.Base(p.path)
	case p.isMany() && !p.isBucket():
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

// list yields the objects of a place that begin with a prefix, as objects.list does.
func (p *place) list(ctx context.Context, prefix string) iter.Seq2[listed, error] {
	if p.isMany() {
		return listSteadily(ctx, p.objects, prefix)
	}
	one := listed{key: p.only, size: -1}
	if p.objects != nil {
		if found, err := p.objects.stat(ctx, p.only); err == nil {
			one = found
		}
	} else if info, err := os.Stat(p.path); p.path != "" && err == nil && info.Mode().IsRegular() {
		one.size, one.info = info.Size(), info
	}
	return func(yield func(listed, error) bool) { yield(one, nil) }
}

// open opens an object for random access.
func (p *place) open(ctx context.Context, key string) (pikokms.Object, error) {
	switch {
	case p.objects != nil:
		stored, err := p.objects.open(ctx, key)
		if err != nil {
			return nil, ofStorage(err)
		}
		return asked{stored, p.isBucket()}, nil
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

// openFile is a pikokms.Object.
type openFile struct {
	*os.File
	info os.FileInfo
}

func (f *openFile) Size() int64        { return f.info.Size() }
func (f *openFile) ModTime() time.Time { return f.info.ModTime() }

// source is an object that is read from its beginning to its end.
type source struct {
	*bufio.Reader
	*opened
	close func() error
	read  counter
}

// peeked is how much of an object can be looked at before it is read.
const peeked = 64 << 10

// read opens an object to be read from its beginning.
func (p *place) read(ctx context.Context, key string) (_ *source, err error) {
	s := new(source)
	switch {
	case p.objects != nil:
		s.opened, err = p.objects.read(ctx, key)
	case p.path != "":
		s.opened, err = readFile(p.path)
	default:
		s.opened = &opened{ReadCloser: io.NopCloser(os.Stdin), size: -1}
	}
	if err != nil {
		return nil, ofStorage(err)
	}
	s.close = sync.OnceValue(s.opened.Close)
	s.read.r = &download{content: s.opened, size: s.size, isRemote: p.isBucket()}
	s.Reader = bufio.NewReaderSize(&s.read, peeked)
	return s, nil
}

func readFile(path string) (*opened, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: f, size: -1}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.size, s.modTime, s.file = info.Size(), info.ModTime(), info
	}
	return s, nil
}

// read opens an object to be read from its beginning, and has its bytes counted. It refuses one
// that the S3 Encryption Client wrote.
func (i item) read(ctx context.Context) (*source, error) {
	s, err := i.place.read(ctx, i.key)
	if err != nil {
		return nil, err
	}
	s.read.tell = i.tell
	if err := s.refuseS3Client(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
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
