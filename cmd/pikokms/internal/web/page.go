package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"iter"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"breakable": breakable}).Parse(pageText))

// breakable returns a name as HTML that a narrow screen breaks where its parts end.
func breakable(name string) template.HTML {
	var b strings.Builder
	for _, r := range name {
		b.WriteString(template.HTMLEscapeString(string(r)))
		if strings.ContainsRune("-_.,+=@~/", r) {
			b.WriteString("<wbr>")
		}
	}
	return template.HTML(b.String())
}

// pagePolicy is the content security policy of a page, which names its style sheet by the hash.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return strings.Replace(closedPolicy, "form-action 'none'", "form-action 'self'", 1) + "; img-src 'self' data:; media-src 'self'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// PageSize is how many entries a page of a folder has. Each object's header is read for its size.
const PageSize = 100

// page is the page of a folder, or of one object. All its links are relative, since a key may begin
// with a slash.
type page struct {
	Title   string
	Style   template.CSS
	Way     []pathLink // from the place to here
	Entries []entry
	Range   string // which entries these are: "101–200 of 1234"
	Before  string // the link to the page before, if there is one
	Next    string // the link to the next page, if there is one
	Filter  string
	Filters bool // whether there is something to filter
	Media   *media
	Failure *failure
}

// failure is why there is nothing to show.
type failure struct{ Status, Reason string }

type pathLink struct{ Name, Target string }

// entry is an object or a folder in a folder.
type entry struct {
	key      string // below the folder, without a folder's slash
	IsFolder bool
	Name     string
	Target   string // empty if no URL leads to it
	Size     string
	Bytes    string
	Modified string // in the time of this computer
	Stored   string // the same, as HTML's time has it
	Note     string // why an object has no link, if it has none
}

// media is what a page plays or shows.
type media struct{ Kind, Source, Name string }

// folder sends a page of a folder, whose key is empty or ends in a slash. The query has the number
// of the page, from 1, and a text that the names of its entries contain.
func (v *View) folder(w http.ResponseWriter, r *http.Request, key string) error {
	ctx, query := r.Context(), r.URL.Query()
	number := 1
	if text := query.Get("page"); text != "" {
		var err error
		if number, err = strconv.Atoi(text); err != nil || number < 1 || number > math.MaxInt32/PageSize {
			return fs.ErrNotExist
		}
	}
	filter := query.Get("filter")
	l, err := v.list(ctx, key, filter, (number-1)*PageSize)
	if err != nil {
		return err
	}
	if len(l.entries) == 0 && (number > 1 || key != "" && r.URL.RawQuery == "") {
		return fs.ErrNotExist
	}
	group, looking := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range l.entries {
		group.Go(func() error {
			l.entries[i].link()
			if l.entries[i].IsFolder {
				return nil
			}
			return v.look(looking, key, &l.entries[i])
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	p := &page{
		Title: shown(v.Place.Title(strings.TrimSuffix(key, "/"))), Way: v.way(key), Entries: l.entries, Range: l.text(),
		Filter: filter, Filters: filter != "" || l.more || number > 1 || len(l.entries) > 10,
	}
	link := func(number int) string {
		values := url.Values{"page": {strconv.Itoa(number)}}
		if filter != "" {
			values.Set("filter", filter)
		}
		return "./?" + values.Encode()
	}
	if number > 1 {
		p.Before = link(number - 1)
	}
	if l.more {
		p.Next = link(number + 1)
	}
	return p.send(w, r, http.StatusOK)
}

// player sends the page of one object.
func (v *View) player(w http.ResponseWriter, r *http.Request, key string) error {
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
		Title: shown(v.Place.Title(key)),
		Way:   append(v.way(folder), pathLink{shown(name), "./" + url.PathEscape(name) + "?view"}),
		Media: &media{kind, "./" + url.PathEscape(name), shown(name)},
	}
	return p.send(w, r, http.StatusOK)
}

func (p *page) send(w http.ResponseWriter, r *http.Request, status int) error {
	p.Style = template.CSS(pageStyle)
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, p); err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(text.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(text.Bytes()) // The client notices by the length that it is not the whole.
	}
	return nil
}

// fail sends the page of a request that failed, which leads back to the folder.
func (v *View) fail(w http.ResponseWriter, r *http.Request, key, reason string, status int) error {
	p := &page{
		Title:   http.StatusText(status),
		Way:     v.way(key[:strings.LastIndex(key, "/")+1]),
		Failure: &failure{http.StatusText(status), reason},
	}
	return p.send(w, r, status)
}

// way returns the links from the place to a folder.
func (v *View) way(key string) []pathLink {
	parts := strings.Split(key, "/") // the last one is empty
	links := []pathLink{{shown(v.Place.Name), "./" + strings.Repeat("../", len(parts)-1)}}
	for i, part := range parts[:len(parts)-1] {
		links = append(links, pathLink{shown(part), "./" + strings.Repeat("../", len(parts)-2-i)})
	}
	return links
}

// listing is a part of what a folder shows.
type listing struct {
	entries []entry
	skipped int  // how many entries come before these
	more    bool // whether others follow
	total   int  // of all entries; -1 if it is not known
}

// text returns which entries these are.
func (l *listing) text() string {
	switch first, last := l.skipped+1, l.skipped+len(l.entries); {
	case len(l.entries) == 0:
		return ""
	case l.total >= 0:
		return fmt.Sprintf("%d–%d of %d", first, last, l.total)
	default:
		return fmt.Sprintf("%d–%d, and more", first, last)
	}
}

// list returns a page of a folder's entries whose names contain filter, in any case. It passes over
// as many entries before as skip says.
func (v *View) list(ctx context.Context, key, filter string, skip int) (*listing, error) {
	l, n := &listing{skipped: skip, total: -1}, 0
	filter = strings.ToLower(filter)
	entries, isWhole, err := v.entries(ctx, key)
	if err != nil {
		return nil, err
	}
	for e, err := range entries {
		switch {
		case err != nil:
			return nil, err
		case !strings.Contains(strings.ToLower(e.key), filter):
			continue
		}
		n++
		switch {
		case n <= skip:
		case n <= skip+PageSize:
			l.entries = append(l.entries, e)
		case !isWhole:
			l.more = true
			return l, nil
		default:
			l.more = true
		}
	}
	l.total = n
	return l, nil
}

// entries yields what a folder shows, in order. All of it has been listed if isWhole is true.
func (v *View) entries(ctx context.Context, key string) (entries iter.Seq2[entry, error], isWhole bool, err error) {
	if !v.Place.IsMany() {
		return func(yield func(entry, error) bool) { yield(entry{key: v.onlyName()}, nil) }, true, nil
	}
	if v.Place.IsPaged() {
		return v.pages(ctx, key), false, nil
	}
	found := make(map[entry]bool)
	for object, err := range v.Place.List(ctx, key) {
		stored := object.Key
		if err != nil && (stored == "" || stored == key) {
			return nil, false, places.OfStorage(err)
		}
		name, isFolder, ok := v.named(strings.TrimPrefix(stored, key))
		switch {
		case err != nil && stored == key+name+"/":
			v.tell(stored, err)
			found[entry{key: name, IsFolder: true, Note: "cannot be read"}] = true
		case ok && object.Left == 0:
			found[entry{key: name, IsFolder: isFolder}] = true
		}
	}
	sorted := slices.SortedFunc(maps.Keys(found), func(a, b entry) int { return strings.Compare(a.sortKey(), b.sortKey()) })
	return func(yield func(entry, error) bool) {
		for _, e := range sorted {
			if !yield(e, nil) {
				return
			}
		}
	}, true, nil
}

// sortKey returns the text that entries are sorted by.
func (e entry) sortKey() string {
	if e.IsFolder {
		return e.key + "/"
	}
	return e.key
}

// bucketPage is how many names a bucket is asked for at once (Amazon S3 API Reference,
// ListObjectsV2, MaxKeys).
const bucketPage = 1000

// pages yields what a folder of a bucket shows. It asks for no more pages than are read.
func (v *View) pages(ctx context.Context, key string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		previous := entry{}
		for token, begun := []byte(nil), false; !begun || len(token) > 0; begun = true {
			objects, next, err := v.Place.Page(ctx, key, token, bucketPage)
			if err != nil {
				yield(entry{}, places.OfStorage(err))
				return
			}
			for _, object := range objects {
				name, isFolder, ok := v.named(strings.TrimPrefix(object.Key, key))
				e := entry{key: name, IsFolder: isFolder}
				if ok && e != previous && !yield(e, nil) {
					return
				}
				previous = e
			}
			token = next
		}
	}
}

// named returns the name that a folder shows for a key below it, or false if it shows none.
func (v *View) named(stored string) (name string, isFolder, ok bool) {
	if name, _, isFolder = strings.Cut(stored, "/"); isFolder {
		return name, true, true
	}
	name, ok = strings.CutSuffix(stored, v.Suffix)
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

// look fills in the size, the time and the kind of an object from its header. It asks no key
// service.
func (v *View) look(ctx context.Context, folder string, e *entry) error {
	name, err := v.stored(folder + e.key)
	if err != nil {
		return err
	}
	stored, err := v.Place.Open(ctx, name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.tell(folder+e.key, err)
		e.Target, e.Note = "", "cannot be read"
		return nil
	}
	var x look.Object
	x.Look(ctx, stored)
	modified := stored.ModTime().Local() // The view is for who is at this computer.
	e.Modified, e.Stored = modified.Format("2006-01-02 15:04"), modified.Format(time.RFC3339)
	if err := errors.Join(x.Err, stored.Close()); err != nil {
		v.tell(folder+e.key, err)
	}
	switch {
	case x.Kind == "":
		e.Target, e.Note = "", "cannot be read"
	case x.Kind == look.KindPlain:
		e.Target, e.Note = "", "not encrypted"
	case x.Kind != look.KindEncrypted:
		e.Target, e.Note = "", x.Kind
	}
	if n, ok := x.PlaintextSize(); ok {
		e.Size, e.Bytes = console.Readable(n), console.Count(n, "byte")
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
