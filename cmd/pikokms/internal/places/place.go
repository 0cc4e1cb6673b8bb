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
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
)

// Absolute returns a name of a place that is the same in every working directory.
func Absolute(text string) string {
	if text == "-" || strings.Contains(text, "://") {
		return text
	}
	if path, err := filepath.Abs(text); err == nil {
		return path
	}
	return text
}

// Manual explains what IN and OUT may be besides files. The help of every command that works on
// several objects has it, and so has the man page.
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
	Name    string // as given, without what is secret in it
	Path    string // of the one file, if it is a file
	objects store  // of a folder or a bucket; otherwise nil
	Only    string // the key of the one object, if it is one of a bucket
	Prefix  string // of the keys of a bucket's objects
}

// Close releases a place.
func (p *Place) Close() error {
	if p.objects == nil {
		return nil
	}
	return p.objects.Close()
}

// IsMany reports whether a place may hold several objects.
func (p *Place) IsMany() bool { return p.objects != nil && p.Only == "" }

// IsBucket reports whether a place is in a bucket.
func (p *Place) IsBucket() bool {
	_, ok := p.objects.(bucketStore)
	return ok
}

// SetWriting sets how objects are put, if the place is a bucket.
func (p *Place) SetWriting(w Writing) {
	if b, ok := p.objects.(bucketStore); ok {
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

// List yields the objects of a place that begin with a prefix, as store.list does.
func (p *Place) List(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	if p.IsMany() {
		return listSteadily(ctx, p.objects, prefix)
	}
	listed := Listed{Key: p.Only, Size: -1}
	if p.objects != nil {
		if found, err := p.objects.stat(ctx, p.Only); err == nil {
			listed = found
		}
	} else if info, err := os.Stat(p.Path); p.Path != "" && err == nil && info.Mode().IsRegular() {
		listed.Size, listed.Info = info.Size(), info
	}
	return func(yield func(Listed, error) bool) { yield(listed, nil) }
}

// IsOfObjects reports whether a place is a folder or is in a bucket.
func (p *Place) IsOfObjects() bool { return p.objects != nil }

// Stat returns an object of a folder or a bucket as a listing would.
func (p *Place) Stat(ctx context.Context, key string) (Listed, error) {
	return p.objects.stat(ctx, key)
}

// Put stores an object in a bucket, as bucketStore.put does.
func (p *Place) Put(ctx context.Context, key string, from *Source, content io.Reader, replace bool) error {
	return p.objects.(bucketStore).put(ctx, key, from.opened, content, replace)
}

// PutFile stores a file in a folder, as folderstorage.Storage's PutFunc does.
func (p *Place) PutFile(ctx context.Context, key string, content io.Reader, decide func(old fs.FileInfo, file *os.File) error) error {
	return p.objects.(*folderObjects).PutFunc(ctx, key, content, decide)
}

// IsPaged reports whether the place lists folders page by page.
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
		return newPlaceObject(stored, storedReads{stored, p.IsBucket()}), nil
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
	Client  Client // as LookForClient found it
}

// PeekSize is how much of an object can be looked at before it is read.
const PeekSize = 64 << 10

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
	s.Reader = bufio.NewReaderSize(&s.Counted, PeekSize)
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
