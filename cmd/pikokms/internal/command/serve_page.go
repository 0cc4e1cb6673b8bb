package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"
)

//go:embed serve_page.html
var pageText string

//go:embed serve_page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pagePolicy is the content security policy of a page, which names its style sheet by the hash.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return closedPolicy + "; img-src 'self' data:; media-src 'self'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// pageSize is how many entries a page of a folder has. Each object's header is read for its size.
const pageSize = 100

// page is what is shown of a folder, or of one object. All its links are relative, since a key may
// begin with a slash.
type page struct {
	Title   string
	Style   template.CSS
	Way     []link // from the place to here
	Entries []entry
	Next    string // the link to the next page, if there is one
	Media   *media
}

type link struct{ Name, Target string }

// entry is an object or a folder in a folder.
type entry struct {
	key      string // below the folder, without a folder's slash
	IsFolder bool
	Name     string
	Target   string // empty if no URL leads to it
	Size     string
	Bytes    string
	Modified string
	Note     string // what is to be said of an object that is not shown
}

// media is what a page plays or shows.
type media struct{ Kind, Source, Name string }

// folder sends the page of a folder, whose key is empty or ends in a slash.
func (v *view) folder(w http.ResponseWriter, r *http.Request, key string) error {
	ctx := r.Context()
	entries, next, err := v.list(ctx, key, r.URL.Query().Get("after"))
	if err != nil {
		return err
	}
	if len(entries) == 0 && key != "" && r.URL.RawQuery == "" {
		return fs.ErrNotExist
	}
	group, looking := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range entries {
		group.Go(func() error {
			entries[i].link()
			if entries[i].IsFolder {
				return nil
			}
			return v.look(looking, key, &entries[i])
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	p := &page{Title: shown(v.place.title(strings.TrimSuffix(key, "/"))), Way: v.way(key), Entries: entries}
	if next != "" {
		p.Next = "./?" + url.Values{"after": {next}}.Encode()
	}
	return p.send(w, r)
}

// player sends the page of one object.
func (v *view) player(w http.ResponseWriter, r *http.Request, key string) error {
	kind, _, _ := strings.Cut(typeOf(key), "/")
	if kind != "video" && kind != "audio" && kind != "image" {
		return fs.ErrNotExist
	}
	stored, h, err := v.open(r.Context(), key)
	if err != nil {
		return err
	}
	if err := stored.Close(); err != nil {
		return err
	}
	if h == nil {
		return errPlain
	}
	folder, name := key[:strings.LastIndex(key, "/")+1], key[strings.LastIndex(key, "/")+1:]
	p := &page{
		Title: shown(v.place.title(key)),
		Way:   append(v.way(folder), link{shown(name), "./" + url.PathEscape(name) + "?view"}),
		Media: &media{kind, "./" + url.PathEscape(name), shown(name)},
	}
	return p.send(w, r)
}

func (p *page) send(w http.ResponseWriter, r *http.Request) error {
	p.Style = template.CSS(pageStyle)
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, p); err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text.Bytes()))
	return nil
}

// way returns the links from the place to a folder.
func (v *view) way(key string) []link {
	parts := strings.Split(key, "/") // the last one is empty
	links := []link{{shown(v.place.name), "./" + strings.Repeat("../", len(parts)-1)}}
	for i, part := range parts[:len(parts)-1] {
		links = append(links, link{shown(part), "./" + strings.Repeat("../", len(parts)-2-i)})
	}
	return links
}

// list returns entries of a folder, and where the next page begins if there are more.
func (v *view) list(ctx context.Context, key, after string) (entries []entry, next string, err error) {
	switch {
	case !v.place.isMany():
		return []entry{{key: v.onlyName()}}, "", nil
	}
	if bucket, ok := v.place.objects.(paged); ok {
		return v.listBucket(ctx, bucket, key, after)
	}
	found := make(map[entry]bool)
	for object, err := range v.place.list(ctx, key) {
		stored := object.key
		if err != nil && (stored == "" || stored == key) {
			return nil, "", err
		}
		name, isFolder, ok := v.named(strings.TrimPrefix(stored, key))
		switch {
		case err != nil && stored == key+name+"/":
			v.tell(stored, err)
			found[entry{key: name, IsFolder: true, Note: "cannot be read"}] = true
		case ok:
			found[entry{key: name, IsFolder: isFolder}] = true
		}
	}
	entries = slices.SortedFunc(maps.Keys(found), func(a, b entry) int { return strings.Compare(a.sorted(), b.sorted()) })
	first, _ := slices.BinarySearchFunc(entries, after, func(e entry, after string) int { return strings.Compare(e.sorted(), after) })
	entries = entries[first:]
	if len(entries) > pageSize {
		next = entries[pageSize].sorted()
		entries = entries[:pageSize]
	}
	return entries, next, nil
}

// sorted returns the text that entries are sorted by. The link to a page has that of its first one.
func (e entry) sorted() string {
	if e.IsFolder {
		return e.key + "/"
	}
	return e.key
}

// paged are objects of which a page of what is directly below a folder can be asked for.
type paged interface {
	// page returns at most n keys. Those that end in a slash may be of folders. The token is where
	// the page begins, or empty, and next is that of the page that follows, if one does.
	page(ctx context.Context, folder string, token []byte, n int) (keys []listed, next []byte, err error)
}

// listBucket lists as list does. It asks for no more of the bucket than the page has.
func (v *view) listBucket(ctx context.Context, bucket paged, key, after string) (entries []entry, next string, err error) {
	token, err := base64.RawURLEncoding.DecodeString(after)
	if err != nil {
		return nil, "", fs.ErrNotExist
	}
	objects, following, err := bucket.page(ctx, key, token, pageSize)
	if err != nil {
		return nil, "", err
	}
	for _, object := range objects {
		if name, isFolder, ok := v.named(strings.TrimPrefix(object.key, key)); ok {
			entries = append(entries, entry{key: name, IsFolder: isFolder})
		}
	}
	if len(following) > 0 {
		next = base64.RawURLEncoding.EncodeToString(following)
	}
	return entries, next, nil
}

// named returns the name that a folder shows for what is stored under a key below it, or false if it
// is not shown.
func (v *view) named(stored string) (name string, isFolder, ok bool) {
	if name, _, isFolder = strings.Cut(stored, "/"); isFolder {
		return name, true, true
	}
	name, ok = strings.CutSuffix(stored, v.suffix)
	return name, false, ok && name != ""
}

// link fills in an entry's name and the link to it.
func (e *entry) link() {
	e.Name = shown(e.key)
	if e.Note != "" {
		return
	}
	if e.key == "." || e.key == ".." {
		e.Note = "no address leads to it"
		return
	}
	e.Target = "./" + url.PathEscape(e.key)
	if e.IsFolder {
		e.Target += "/"
		return
	}
	switch kind, _, _ := strings.Cut(typeOf(e.key), "/"); kind {
	case "video", "audio", "image":
		e.Target += "?view"
	}
}

// look fills in what an object says of itself. It asks no key service.
func (v *view) look(ctx context.Context, folder string, e *entry) error {
	name, err := v.stored(folder + e.key)
	if err != nil {
		return err
	}
	stored, err := v.place.open(ctx, name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.tell(folder+e.key, err)
		e.Target, e.Note = "", "cannot be read"
		return nil
	}
	var x examined
	x.look(io.NewSectionReader(stored, 0, stored.Size()))
	e.Modified = stored.ModTime().UTC().Format("2006-01-02 15:04")
	if err := errors.Join(x.err, stored.Close()); err != nil {
		v.tell(folder+e.key, err)
	}
	switch {
	case x.kind == "":
		e.Target, e.Note = "", "cannot be read"
	case x.kind == kindPlain:
		e.Target, e.Note = "", "not encrypted"
	case x.kind != kindEncrypted:
		e.Target, e.Note = "", x.kind
	}
	if n, ok := x.plaintextSize(); ok {
		e.Size, e.Bytes = readable(n), fmt.Sprintf("%d bytes", n)
	}
	return nil
}

// shown returns a name as a page shows it. It has no characters that change how others are shown.
func shown(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(name, string(unicode.ReplacementChar)))
}

// readable returns a size in binary units.
func readable(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/(1<<10), 0
	for size >= 1<<10 && unit < 4 {
		size, unit = size/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGTP"[unit])
}
