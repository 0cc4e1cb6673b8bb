package command

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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// s3Server is as much of S3's protocol as the command needs for objects of one part. It has any
// bucket.
type s3Server struct {
	mu      sync.Mutex
	objects map[string]s3Object // by /BUCKET/KEY
	got     func(path string)   // is called when an object was read, if it is not nil
}

type s3Object struct {
	content []byte
	header  http.Header
	modTime time.Time
}

func newS3Server(t *testing.T) (server *s3Server, url string) {
	t.Helper()
	server = &s3Server{objects: make(map[string]s3Object)}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	return server, listening.URL
}

// onGet has got called, or no longer if it is nil, when an object was read.
func (s *s3Server) onGet(got func(path string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = got
}

// ServeHTTP implements http.Handler.
func (s *s3Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.Path
	if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2" {
		s.list(w, strings.TrimSuffix(path, "/")+"/", r.URL.Query().Get("prefix"))
		return
	}
	object, found := s.objects[path]
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

func (s *s3Server) list(w http.ResponseWriter, bucket, prefix string) {
	type contents struct {
		Key          string
		Size         int
		ETag         string
		LastModified string
	}
	var page struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		IsTruncated bool
		Contents    []contents
	}
	for _, path := range slices.Sorted(maps.Keys(s.objects)) {
		if key, ok := strings.CutPrefix(path, bucket); ok && strings.HasPrefix(key, prefix) {
			o := s.objects[path]
			page.Contents = append(page.Contents, contents{key, len(o.content), o.header.Get("ETag"), o.modTime.UTC().Format(time.RFC3339)})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(page)
}
