package s3storage_test

import (
	"bytes"
	"crypto/md5"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// bucketInMemory answers those requests of S3 that the storage makes, over HTTP, without a check of
// signatures and checksums. It lies if lie is set and answers a request itself, or changes it.
type bucketInMemory struct {
	mu      sync.Mutex // of all that follows
	lie     func(w http.ResponseWriter, r *http.Request) (answered bool)
	objects map[string][]byte
	headers map[string]http.Header    // of the requests that put the objects
	uploads map[string]map[int][]byte // parts, by the upload's ID
	begun   map[string]http.Header    // of the requests that began the uploads
	count   int
}

func newBucketInMemory() *bucketInMemory {
	return &bucketInMemory{
		objects: make(map[string][]byte), headers: make(map[string]http.Header),
		uploads: make(map[string]map[int][]byte), begun: make(map[string]http.Header),
	}
}

// serve returns a client of the bucket, which does not try again.
func (b *bucketInMemory) serve(t *testing.T, options ...func(*s3.Options)) *s3.Client {
	t.Helper()
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return s3.New(s3.Options{
		Region: "eu-west-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: login(), Retryer: aws.NopRetryer{},
	}, options...)
}

// setLie sets the lie of the requests that follow. Those that still run keep theirs.
func (b *bucketInMemory) setLie(lie func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lie = lie
}

// keys returns the keys of the objects.
func (b *bucketInMemory) keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

// unfinished returns the IDs of the uploads that were neither completed nor aborted.
func (b *bucketInMemory) unfinished() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.uploads))
}

// header returns the header of the request that put an object.
func (b *bucketInMemory) header(key string) http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.headers[key]
}

// content returns an object as it is stored.
func (b *bucketInMemory) content(key string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[key]
}

func etag(content []byte) string { return fmt.Sprintf(`"%x"`, md5.Sum(content)) }

// plain takes off the chunks of a body with trailing checksums (Amazon S3 User Guide,
// "aws-chunked").
func plain(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		return body, err
	}
	var content []byte
	for {
		size, rest, _ := bytes.Cut(body, []byte("\r\n"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n > int64(len(rest)) {
			return nil, errors.New("no chunk")
		}
		if n == 0 {
			return content, nil
		}
		content, body = append(content, rest[:n]...), rest[n+2:]
	}
}

func (b *bucketInMemory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, err := plain(r)
	r.Body = io.NopCloser(bytes.NewReader(content))
	b.mu.Lock()
	lie := b.lie
	b.mu.Unlock()
	if lie != nil && lie(w, r) {
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	id := r.URL.Query().Get("uploadId")
	old, exists := b.objects[key]
	unfit := r.Header.Get("If-Match") != "" && r.Header.Get("If-Match") != etag(old) || r.Header.Get("If-None-Match") != "" && exists
	for _, property := range []string{"tagging", "acl", "ownershipControls", "object-lock", "retention", "legal-hold"} {
		if r.URL.Query().Has(property) {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
		b.count++
		id = strconv.Itoa(b.count)
		b.uploads[id], b.begun[id] = make(map[int][]byte), r.Header
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case id != "" && b.uploads[id] == nil:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPut && id != "":
		n, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
		b.uploads[id][n] = content
		w.Header().Set("ETag", etag(content))
	case r.Method == http.MethodDelete && id != "":
		delete(b.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case unfit:
		w.WriteHeader(http.StatusPreconditionFailed)
	case r.Method == http.MethodPost:
		var whole []byte
		for n := range len(b.uploads[id]) {
			whole = append(whole, b.uploads[id][n+1]...)
		}
		delete(b.uploads, id)
		b.objects[key], b.headers[key] = whole, b.begun[id]
		fmt.Fprintf(w, "<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>", etag(whole))
	case r.Method == http.MethodPut:
		b.objects[key], b.headers[key] = content, r.Header
		w.Header().Set("ETag", etag(content))
	case r.Method == http.MethodGet && r.URL.Query().Has("list-type"):
		list := struct {
			XMLName      xml.Name `xml:"ListBucketResult"`
			IsTruncated  bool
			EncodingType string
			Contents     []struct {
				Key  string
				Size int
			}
		}{EncodingType: "url"}
		for _, key := range slices.Sorted(maps.Keys(b.objects)) {
			if strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
				list.Contents = append(list.Contents, struct {
					Key  string
					Size int
				}{url.QueryEscape(key), len(b.objects[key])})
			}
		}
		_ = xml.NewEncoder(w).Encode(list)
	case !exists:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodDelete:
		delete(b.objects, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		for name, values := range b.headers[key] {
			if name == "Expires" || strings.HasPrefix(name, "X-Amz-Meta-") || strings.HasPrefix(name, "Content-") && name != "Content-Length" && name != "Content-Md5" {
				w.Header()[name] = values
			}
		}
		w.Header().Set("ETag", etag(old))
		b.mu.Unlock() // the client may read slowly
		defer b.mu.Lock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(old))
	}
}
