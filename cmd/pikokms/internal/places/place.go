// Package places holds what objects are read from and written to: files, folders, and buckets of
// S3, Google Cloud Storage and Azure.
package places

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
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/s3storage"
)

// Absolute returns the name of a place that it has in every folder.
func Absolute(text string) string {
	if text == "-" || strings.Contains(text, "://") {
		return text
	}
	if path, err := filepath.Abs(text); err == nil {
		return path
	}
	return text
}

// Manual says what IN and OUT may be besides files. It is a part of the usage of every command that
// works on several objects, and of its man page.
const Manual = `
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

// Place is where objects are: standard input, a file, a folder or a bucket. A bucket, and a file,
// may be meant for one object alone.
type Place struct {
	Name    string  // as given, without what is secret in it
	Path    string  // of the one file, if it is a file
	objects objects // of a folder or a bucket; otherwise nil
	Only    string  // the key of the one object, if it is one of a bucket
	Prefix  string  // of the keys of a bucket's objects
}

// objects is where several objects are. Keys are those below the place, and may be empty.
type objects interface {
	// list yields the objects that begin with a prefix, and what is left out there. An error with a
	// key, which ends in a slash, is that of a folder, and the rest follows.
	list(ctx context.Context, prefix string) iter.Seq2[Listed, error]
	// stat returns what a listing says of an object. The error holds fs.ErrNotExist if there is
	// none.
	stat(ctx context.Context, key string) (Listed, error)
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
	setWriting(w Writing)
}

// Listed is what a listing found.
type Listed struct {
	Key  string
	Size int64       // in bytes; -1 if it is not known
	Info os.FileInfo // of a file; nil if it is not known
	Left Left        // why it is no object
}

// IsMarker tells whether an object is an empty one that stands for a folder, as consoles of clouds
// make them.
func (l Listed) IsMarker() bool {
	return l.Size == 0 && (l.Key == "" || strings.HasSuffix(l.Key, "/"))
}

// opened is an object that is open to be read from its beginning.
type opened struct {
	io.ReadCloser
	Length  int64     // in bytes, or -1
	ModTime time.Time // zero if it has none
	File    os.FileInfo
	// Replace puts content in the object's place if it is still what is read. Otherwise the error
	// holds pikokms.ErrChanged. It is nil for the one file and for standard input.
	Replace func(ctx context.Context, content io.Reader) error

	// NotKept returns what a replacement in its place could not keep. It is nil for a file, which
	// has no more than content.
	NotKept func(ctx context.Context) ([]s3storage.Loss, error)

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

// Open opens what is to be read.
func Open(ctx context.Context, text string) (*Place, error) {
	if text == "-" {
		return &Place{Name: "standard input"}, nil
	}
	if strings.Contains(text, "://") {
		return openSource(ctx, text)
	}
	info, err := os.Stat(text)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return &Place{Name: text, Path: text}, nil
	}
	return OpenFolder(text)
}

// openSource opens a bucket to read from. If there is no object of the name that its URL ends in,
// but some below that name, those are meant.
func openSource(ctx context.Context, text string) (*Place, error) {
	p, err := OpenBucket(ctx, text)
	if err != nil || p.Only == "" {
		return p, err
	}
	if _, err := p.objects.stat(ctx, p.Only); !errors.Is(err, fs.ErrNotExist) {
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

// OpenBucket opens the bucket of a URL. A path without a slash at its end names one object.
func OpenBucket(ctx context.Context, text string) (*Place, error) {
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

func openURL(ctx context.Context, u *url.URL) (*Place, error) {
	p := &Place{Name: strings.TrimSuffix(u.Scheme+"://"+u.Host+(&url.URL{Path: u.Path}).EscapedPath(), "/")}
	open := openCloud
	switch u.Scheme {
	case "s3":
		open = openS3
	case "file":
		open = openBlobs
	}
	var err error
	if p.objects, p.Only, err = open(ctx, u); err != nil {
		err = withoutQuery(err, u)
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	if u.Scheme != "file" {
		p.Prefix, _ = keyOf(u)
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
	u, err := console.ParseURL(rest)
	if err != nil {
		return nil, console.Usage(fmt.Errorf("not a URL: %w", err))
	}
	if arn != "" {
		u.Host = arn
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, console.Usage(fmt.Errorf("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, strings.Join(schemes, ", ")))
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
func (p *Place) Close() error {
	if p.objects == nil {
		return nil
	}
	return p.objects.Close()
}

// IsMany tells whether a place may hold several objects.
func (p *Place) IsMany() bool { return p.objects != nil && p.Only == "" }

// IsBucket tells whether a place is in a bucket.
func (p *Place) IsBucket() bool {
	_, ok := p.objects.(bucket)
	return ok
}

// SetWriting sets how objects are put, if the place is a bucket.
func (p *Place) SetWriting(w Writing) {
	if b, ok := p.objects.(bucket); ok {
		b.setWriting(w)
	}
}

func (p *Place) IsStandardInput() bool { return p.objects == nil && p.Path == "" }

// Base returns the last part of a place's name.
func (p *Place) Base() string {
	switch {
	case p.Path != "":
		return filepath.Base(p.Path)
	case p.IsMany() && !p.IsBucket():
		return filepath.Base(Absolute(p.Name))
	}
	return path.Base(p.Name)
}

// Title returns the name of an object, for people.
func (p *Place) Title(key string) string {
	if !p.IsMany() {
		return p.Name
	}
	return strings.TrimSuffix(p.Name, "/") + "/" + key
}

// List yields the objects of a place that begin with a prefix, as objects.list does.
func (p *Place) List(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	if p.IsMany() {
		return listSteadily(ctx, p.objects, prefix)
	}
	one := Listed{Key: p.Only, Size: -1}
	if p.objects != nil {
		if found, err := p.objects.stat(ctx, p.Only); err == nil {
			one = found
		}
	} else if info, err := os.Stat(p.Path); p.Path != "" && err == nil && info.Mode().IsRegular() {
		one.Size, one.Info = info.Size(), info
	}
	return func(yield func(Listed, error) bool) { yield(one, nil) }
}

// IsOfObjects tells whether a place is a folder or is in a bucket.
func (p *Place) IsOfObjects() bool { return p.objects != nil }

// Stat returns what a listing of a folder or a bucket says of an object.
func (p *Place) Stat(ctx context.Context, key string) (Listed, error) {
	return p.objects.stat(ctx, key)
}

// Put stores an object in a bucket, as bucket.put does.
func (p *Place) Put(ctx context.Context, key string, from *Source, content io.Reader, replace bool) error {
	return p.objects.(bucket).put(ctx, key, from.opened, content, replace)
}

// PutFile stores a file in a folder, as pikokms.Folder's PutFunc does.
func (p *Place) PutFile(ctx context.Context, key string, content io.Reader, decide func(old fs.FileInfo, file *os.File) error) error {
	return p.objects.(*folderObjects).PutFunc(ctx, key, content, decide)
}

// IsPaged tells whether a page of a folder of the place can be asked for.
func (p *Place) IsPaged() bool {
	_, ok := p.objects.(paged)
	return ok
}

// Page returns a page of what is directly below a folder, as paged.page does.
func (p *Place) Page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error) {
	return p.objects.(paged).page(ctx, folder, token, n)
}

// Open opens an object for random access.
func (p *Place) Open(ctx context.Context, key string) (pikokms.Object, error) {
	switch {
	case p.objects != nil:
		stored, err := p.objects.open(ctx, key)
		if err != nil {
			return nil, OfStorage(err)
		}
		return asked{stored, p.IsBucket()}, nil
	case p.Path == "":
		return nil, errors.New("standard input can only be read from its beginning; name a file")
	}
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s can only be read from its beginning; name a file", p.Path)
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

func (f *openFile) Size() int64 { return f.info.Size() }

func (f *openFile) ModTime() time.Time { return f.info.ModTime() }

// Source is an object that is read from its beginning to its end.
type Source struct {
	*bufio.Reader
	*opened
	close   func() error
	Counted Counter
}

// Peeked is how much of an object can be looked at before it is read.
const Peeked = 64 << 10

// Read opens an object to be read from its beginning.
func (p *Place) Read(ctx context.Context, key string) (_ *Source, err error) {
	s := new(Source)
	switch {
	case p.objects != nil:
		s.opened, err = p.objects.read(ctx, key)
	case p.Path != "":
		s.opened, err = readFile(p.Path)
	default:
		s.opened = &opened{ReadCloser: io.NopCloser(os.Stdin), Length: -1}
	}
	if err != nil {
		return nil, OfStorage(err)
	}
	s.close = sync.OnceValue(s.opened.Close)
	s.Counted.R = &download{content: s.opened, size: s.Length, isRemote: p.IsBucket()}
	s.Reader = bufio.NewReaderSize(&s.Counted, Peeked)
	return s, nil
}

func readFile(path string) (*opened, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &opened{ReadCloser: f, Length: -1}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.Length, s.ModTime, s.File = info.Size(), info.ModTime(), info
	}
	return s, nil
}

// Close releases what a source reads. A second Close returns the first one's result.
func (s *Source) Close() error { return s.close() }

// Start returns the first bytes of an object, as many as header.Sniff takes if there are as many.
func (s *Source) Start() ([]byte, error) {
	b, err := s.Peek(header.SniffSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}
