package verbs

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// s3Server has the part of S3's protocol that the command needs for objects of one part. Every
// bucket exists.
type s3Server struct {
	mu      sync.Mutex
	objects map[string]s3Object     // by /BUCKET/KEY
	got     func(path string)       // if not nil, is called after an object was read
	refused func(*http.Request) int // returns the status to answer with, or 0; may be nil
	sorted  []string                // the keys of objects of many, in order
}

type s3Object struct {
	content []byte
	header  http.Header
	modTime time.Time
}

func newS3Server(t *testing.T) (server *s3Server, endpoint string) {
	t.Helper()
	server = &s3Server{objects: make(map[string]s3Object)}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	return server, listening.URL
}

// onGet makes the server call got after each read of an object, or nothing if got is nil.
func (s *s3Server) onGet(got func(path string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = got
}

// onRequest makes the server refuse requests for which refused returns a status.
func (s *s3Server) onRequest(refused func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = refused
}

// put stores an object.
func (s *s3Server) put(path string, o s3Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[path] = o
}

// content returns what an object holds.
func (s *s3Server) content(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[path].content
}

// many gives a bucket n objects, which are listed in pages of 1,000.
func (s *s3Server) many(n int, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s3Object{content, http.Header{"Etag": {`"1"`}}, time.Now()}
	for i := range n {
		path := fmt.Sprintf("/bucket/backups/%04d/%08d.parquet", i/1000, i)
		s.objects[path] = o
		s.sorted = append(s.sorted, path)
	}
}

func (s *s3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.Path
	if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2" {
		s.list(w, strings.TrimSuffix(path, "/")+"/", r.URL.Query())
		return
	}
	object, found := s.objects[path]
	for _, part := range []string{"acl", "legal-hold", "object-lock", "ownershipControls", "retention", "tagging"} {
		if r.URL.Query().Has(part) { // some services have none
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
	}
	if s.refused != nil {
		if status := s.refused(r); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	refuse := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
	switch r.Method {
	case http.MethodPut:
		if strings.Count(path, "/") == 1 || strings.HasSuffix(path, "/") && r.ContentLength <= 0 {
			return // a bucket
		}
		if wanted := r.Header.Get("If-Match"); wanted != "" && (!found || wanted != object.header.Get("ETag")) ||
			r.Header.Get("If-None-Match") == "*" && found {
			refuse(http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		content, err := io.ReadAll(r.Body)
		if err != nil || strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
			refuse(http.StatusNotImplemented, "NotImplemented")
			return
		}
		sum := md5.Sum(content)
		object = s3Object{content, http.Header{"Etag": {`"` + hex.EncodeToString(sum[:]) + `"`}}, time.Now()}
		for name, values := range r.Header {
			if strings.HasPrefix(name, "X-Amz-Meta-") || slices.Contains(s3Headers, name) {
				object.header[name] = values
			}
		}
		s.objects[path] = object
		w.Header().Set("ETag", object.header.Get("ETag"))
	case http.MethodGet, http.MethodHead:
		if !found {
			refuse(http.StatusNotFound, "NoSuchKey")
			return
		}
		maps.Copy(w.Header(), object.header)
		http.ServeContent(w, r, "", object.modTime, bytes.NewReader(object.content))
		if s.got != nil && r.Method == http.MethodGet {
			s.got(path)
		}
	case http.MethodDelete:
		delete(s.objects, path)
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(http.StatusNotImplemented, "NotImplemented")
	}
}

var s3Headers = []string{"Content-Type", "Cache-Control", "Content-Language", "Content-Disposition", "X-Amz-Storage-Class"}

func (s *s3Server) list(w http.ResponseWriter, bucket string, query url.Values) {
	type contents struct {
		Key          string
		Size         int
		ETag         string
		LastModified string
	}
	var page struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []contents
	}
	paths := s.sorted
	if paths == nil {
		paths = slices.Sorted(maps.Keys(s.objects))
	}
	first, _ := slices.BinarySearch(paths, query.Get("continuation-token"))
	for _, path := range paths[first:] {
		key, ok := strings.CutPrefix(path, bucket)
		if !ok || !strings.HasPrefix(key, query.Get("prefix")) {
			continue
		}
		if len(page.Contents) == 1000 {
			page.IsTruncated, page.NextContinuationToken = true, path
			break
		}
		o := s.objects[path]
		page.Contents = append(page.Contents, contents{key, len(o.content), o.header.Get("ETag"), o.modTime.UTC().Format(time.RFC3339)})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(page)
}
