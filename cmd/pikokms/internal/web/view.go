package web

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/look"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

// View answers requests for a place. The path of a URL is an object's key, or a folder's if it ends
// in a slash.
type View struct {
	Place  *places.Place
	Host   *pikokms.Host
	Pairs  map[string]string
	Limits header.Limits
	Suffix string // of the keys of objects, which their URLs do not have
}

// errPlain means that an object is not encrypted.
var errPlain = errors.New("it is not encrypted")

func (v *View) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/")
	ctx, end := telemetry.TraceObject(r.Context(), 0, v.Place.Title(key), -1)
	r = r.WithContext(ctx)
	var err error
	defer func() { end("served", err) }()
	switch {
	case key == "" || strings.HasSuffix(key, "/"):
		err = v.folder(w, r, key)
	case r.URL.RawQuery == "view":
		err = v.player(w, r, key)
	default:
		err = v.object(w, r, key)
	}
	if err == nil || r.Context().Err() != nil { // the client has gone
		return
	}
	if errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(key, "/") && v.isFolder(r.Context(), key) {
		// A Location that begins with the path could be another host's.
		w.Header().Set("Location", "./"+url.PathEscape(path.Base(key))+"/")
		w.WriteHeader(http.StatusFound)
		return
	}
	text, status := answerTo(err)
	if status != http.StatusNotFound {
		v.tell(key, err)
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	if strings.Contains(r.Header.Get("Accept"), "text/html") && v.fail(w, r, key, text, status) == nil {
		return
	}
	http.Error(w, text, status)
}

// retryAfter is when a client may ask again after a service was away.
const retryAfter = 10 * time.Second

// tell reports an error on standard error. The client gets no more than a text of clientAnswers.
func (v *View) tell(key string, err error) {
	console.Say(slog.LevelError, fmt.Sprintf("%s: %s", console.Printable(v.Place.Title(key)), console.Explain(err)), "object", v.Place.Title(key))
}

// clientAnswers are the answers to errors, in the order in which they are looked for. An error's
// own text names keys and places, which clients must not see.
var clientAnswers = []struct {
	err    error
	text   string
	status int
}{
	{fs.ErrNotExist, "There is no such object.", http.StatusNotFound},
	{errPlain, "This object is not encrypted, so it is not shown.", http.StatusForbidden},
	{provider.ErrAccessDenied, "The key service does not let this view use the object's key.", http.StatusForbidden},
	{branchkey.ErrDestroyed, "The object's key was destroyed, so nobody can read it any more.", http.StatusGone},
	{provider.ErrKeyDisabled, "The object's key is disabled.", http.StatusForbidden},
	{provider.ErrKeyPendingDeletion, "The object's key is being deleted.", http.StatusForbidden},
	{provider.ErrKeyNotFound, "The object's key is not there any more.", http.StatusForbidden},
	{provider.ErrUntrustedKey, "This object is under a key that this view was not given.", http.StatusForbidden},
	{provider.ErrContextMismatch, "This object has other pairs than this view asks for.", http.StatusForbidden},
	{provider.ErrProviderUnavailable, "The key service cannot be asked now. Try again in a while.", http.StatusServiceUnavailable},
	{provider.ErrDecryptionFailed, "This object is damaged, or is under another key.", http.StatusInternalServerError},
}

// answerTo returns the answer to an error.
func answerTo(err error) (text string, status int) {
	for _, a := range clientAnswers {
		if errors.Is(err, a.err) {
			return a.text, a.status
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission), places.RefusalOf(err) != places.NotRefused:
		return "The storage does not let this view read this object.", http.StatusForbidden
	case places.IsTransient(err):
		return "The storage cannot be read now. Try again in a while.", http.StatusServiceUnavailable
	case look.IsFormat(err):
		return "This object is damaged.", http.StatusInternalServerError
	}
	return "This object cannot be read.", http.StatusInternalServerError
}

// stored returns the key under which an object is stored.
func (v *View) stored(key string) (string, error) {
	if v.Place.IsMany() {
		return key + v.Suffix, nil
	}
	if key != v.onlyName() {
		return "", fs.ErrNotExist
	}
	return v.Place.Only, nil
}

// onlyName returns the name of the one object, if it is one.
func (v *View) onlyName() string {
	name := path.Base(v.Place.Only)
	if v.Place.Path != "" {
		name = filepath.Base(v.Place.Path)
	}
	return strings.TrimSuffix(name, v.Suffix)
}

// open opens a stored object, and reads its header, which is nil if the object is not encrypted.
func (v *View) open(ctx context.Context, key string) (pikokms.Object, *header.Header, error) {
	name, err := v.stored(key)
	if err != nil {
		return nil, nil, err
	}
	stored, err := v.Place.Open(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	whole := io.NewSectionReader(stored, 0, stored.Size())
	start := make([]byte, header.SniffSize)
	n, err := io.ReadFull(whole, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, errors.Join(err, stored.Close())
	}
	if !header.Sniff(start[:n]) {
		return stored, nil, nil
	}
	if _, err := whole.Seek(0, io.SeekStart); err != nil {
		return nil, nil, errors.Join(err, stored.Close())
	}
	h, err := header.Read(whole, v.Limits)
	if err != nil {
		return nil, nil, errors.Join(err, stored.Close())
	}
	return stored, h, nil
}

// object sends an object, or the ranges of it that are asked for.
func (v *View) object(w http.ResponseWriter, r *http.Request, key string) error {
	ctx := r.Context()
	stored, h, err := v.open(ctx, key)
	if err != nil {
		return err
	}
	defer stored.Close()
	if h == nil {
		return errPlain
	}
	hasNoRanges := h.Suite.Signed() || h.ContentType != header.Framed
	var content pikokms.Object
	if !hasNoRanges {
		content, err = v.Host.OpenObject(ctx, "", stored, v.Pairs)
		if hasNoRanges = errors.Is(err, pikokms.ErrNotSeekable); err != nil && !hasNoRanges {
			return err
		}
	}
	kind := typeOf(key)
	describe := func() {
		if kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		w.Header().Set("Content-Security-Policy", policyFor(kind))
		// A message's ID is random, and authenticated with all that the message holds.
		w.Header().Set("ETag", `"`+hex.EncodeToString(h.MessageID)+`"`)
	}
	if hasNoRanges {
		return v.whole(w, r, key, describe)
	}
	describe()
	http.ServeContent(w, r, "", stored.ModTime(), &reportingReader{io.NewSectionReader(content, 0, content.Size()), func(err error) {
		if ctx.Err() == nil {
			v.tell(key, err)
		}
	}})
	return nil
}

// reportingReader reports failures of content on standard error. The client notices one by the
// answer's length.
type reportingReader struct {
	*io.SectionReader
	tell func(error)
}

func (t *reportingReader) Read(p []byte) (int, error) {
	n, err := t.SectionReader.Read(p)
	if err != nil && err != io.EOF {
		t.tell(err)
	}
	return n, err
}

// whole sends an object that has no ranges from its beginning to its end.
func (v *View) whole(w http.ResponseWriter, r *http.Request, key string, describe func()) (err error) {
	ctx := r.Context()
	name, err := v.stored(key)
	if err != nil {
		return err
	}
	s, err := v.Place.Read(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	content, _, err := v.Host.DecryptObject(ctx, "", s, -1, v.Pairs)
	if err != nil {
		return err
	}
	describe()
	w.Header().Set("Accept-Ranges", "none")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	n, err := io.Copy(w, content)
	if err == nil || n == 0 {
		return err
	}
	if ctx.Err() == nil {
		v.tell(key, err)
	}
	panic(http.ErrAbortHandler) // Only so does the client notice that this is not the whole.
}

// isFolder reports whether there are objects below a key.
func (v *View) isFolder(ctx context.Context, key string) bool {
	if !v.Place.IsMany() {
		return false
	}
	for object, err := range v.Place.List(ctx, key+"/") {
		return err == nil || object.Key != "" // what can't be read is below it
	}
	return false
}

// mediaTypes has the types of what browsers play and show. Those of other names come from the
// system.
var mediaTypes = map[string]string{
	".aac": "audio/aac", ".avif": "image/avif", ".bmp": "image/bmp", ".flac": "audio/flac", ".gif": "image/gif",
	".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".m4a": "audio/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime",
	".mp3": "audio/mpeg", ".mp4": "video/mp4", ".oga": "audio/ogg", ".ogg": "audio/ogg", ".ogv": "video/ogg",
	".opus": "audio/ogg", ".pdf": "application/pdf", ".png": "image/png", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
	".wav": "audio/wav", ".webm": "video/webm", ".webp": "image/webp",
}

// typeOf returns the content type of a name, or nothing.
func typeOf(name string) string {
	extension := strings.ToLower(path.Ext(name))
	if kind := mediaTypes[extension]; kind != "" {
		return kind
	}
	return mime.TypeByExtension(extension)
}

// The content security policies. A page may load pictures and media of the view, and has one style
// sheet. An object's own document runs no script, and in a sandbox it belongs to no origin, so that
// it can't read others. Browsers play no media and show no PDF in a sandbox, and those have no
// script that could read anything.
const (
	closedPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	mediaPolicy  = closedPolicy + "; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"
	pdfPolicy    = "script-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	objectPolicy = mediaPolicy + "; sandbox"
)

// policyFor returns the policy for an object of a content type, or of one that is not known.
func policyFor(kind string) string {
	switch class, _, _ := strings.Cut(kind, "/"); {
	case kind == "application/pdf":
		return pdfPolicy
	case class == "video", class == "audio", class == "image" && !strings.HasPrefix(kind, "image/svg"):
		return mediaPolicy
	}
	return objectPolicy
}
