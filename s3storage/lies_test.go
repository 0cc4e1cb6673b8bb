package s3storage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/s3storage"
)

// answerWith returns a lie that gives every request the same answer.
func answerWith(status int, body string, header ...string) func(*httptest.ResponseRecorder, http.ResponseWriter, *http.Request) {
	return func(_ *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// relay sends an answer with another body, as a raw connection does.
func relay(true *httptest.ResponseRecorder, w http.ResponseWriter, body []byte, length int) {
	connection, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	fmt.Fprintf(buffered, "HTTP/1.1 %d so\r\nConnection: close\r\n", true.Code)
	for name, values := range true.Header() {
		if name != "Content-Length" {
			fmt.Fprintf(buffered, "%s: %s\r\n", name, values[0])
		}
	}
	if head := true.Header().Get("Content-Length"); true.Body.Len() == 0 && head != "" {
		fmt.Fprintf(buffered, "Content-Length: %s\r\n", head) // of an answer to HEAD
	} else if length >= 0 {
		fmt.Fprintf(buffered, "Content-Length: %d\r\n", length)
	}
	_, _ = buffered.WriteString("\r\n")
	_, _ = buffered.Write(body)
	_ = buffered.Flush()
}

const errorBody = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>`

// lies are ways in which a service, or what is before it, does not answer as S3 does. Each gets the
// true answer, which it may send on. If before is set, it is what the true answer is to.
var lies = map[string]struct {
	before func(r *http.Request)
	answer func(true *httptest.ResponseRecorder, w http.ResponseWriter, r *http.Request)
}{
	"cut body": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		body := true.Body.Bytes()
		relay(true, w, body[:len(body)/2], len(body))
	}},
	"cut body of no length": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		body := true.Body.Bytes()
		relay(true, w, body[:len(body)/2], -1)
	}},
	"shorter length": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		body := true.Body.Bytes()
		relay(true, w, body, len(body)/2)
	}},
	"longer length": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		relay(true, w, true.Body.Bytes(), true.Body.Len()+7)
	}},
	"another ETag each time": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, _ *http.Request) {
		true.Header().Set("ETag", strconv.Quote(rand.Text()))
		relay(true, w, true.Body.Bytes(), true.Body.Len())
	}},
	"no ETag": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, r *http.Request) {
		true.Header().Del("ETag")
		true.Header().Set("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
		relay(true, w, true.Body.Bytes(), true.Body.Len())
	}},
	"range ignored":      {before: func(r *http.Request) { r.Header.Del("Range") }},
	"conditions ignored": {before: func(r *http.Request) { r.Header.Del("If-Match"); r.Header.Del("If-None-Match") }},
	"another range": {before: func(r *http.Request) {
		var first, last int
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); n == 2 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first+1, last+1))
		}
	}},
	"conditions not implemented": {answer: func(true *httptest.ResponseRecorder, w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != "" {
			answerWith(501, "<Error><Code>NotImplemented</Code></Error>")(true, w, r)
			return
		}
		relay(true, w, true.Body.Bytes(), true.Body.Len())
	}},
	"200 with an error":     {answer: answerWith(200, errorBody, "Content-Type", "application/xml")},
	"200 with a page":       {answer: answerWith(200, "<html><body>Please log in.</body></html>", "Content-Type", "text/html")},
	"200 with nothing":      {answer: answerWith(200, "")},
	"204":                   {answer: answerWith(204, "")},
	"404 page":              {answer: answerWith(404, "<html><body>Not here.</body></html>")},
	"500 page":              {answer: answerWith(500, "<html><body>Oops.</body></html>")},
	"302 to a page":         {answer: answerWith(302, "", "Location", "http://login.invalid/")},
	"307 in circles":        {answer: answerWith(307, "", "Location", "/around")},
	"301 to another Region": {answer: answerWith(301, "<Error><Code>PermanentRedirect</Code></Error>", "X-Amz-Bucket-Region", "us-west-2")},
	"no answer":             {answer: func(_ *httptest.ResponseRecorder, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
}

// TestNoLieIsTakenForTruth asks at each door a service that lies in each of the ways. What comes of
// it is right, or an error.
func TestNoLieIsTakenForTruth(t *testing.T) {
	race.SkipShort(t)
	const small, large = 100_000, 10<<20 + 1
	first, second := noise(small), noise(large)
	keys := []string{"another", "folder/new", "object"}
	right, refused := 0, 0
	type setting struct {
		memory  *bucketInMemory
		storage *s3storage.Storage
		host    *pikokms.Host
		version *s3storage.Version
		honest  *pikokms.Host // of the same objects
	}
	put := func(replacement []byte, do func(ctx context.Context, x *setting, content io.Reader) error) func(context.Context, *testing.T, *setting) error {
		return func(ctx context.Context, t *testing.T, x *setting) error {
			content, err := x.host.EncryptObject(ctx, "object", bytes.NewReader(replacement), nil)
			require.NoError(t, err)
			if err := do(ctx, x, content); err != nil {
				return err
			}
			x.memory.setLie(nil)
			require.True(t, bytes.Equal(replacement, get(t, x.honest, "object")), "it says that it is stored")
			return nil
		}
	}
	doors := map[string]func(context.Context, *testing.T, *setting) error{
		"Get": func(ctx context.Context, t *testing.T, x *setting) error {
			r, err := x.host.Get(ctx, "object")
			if err != nil {
				return err
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err == nil {
				require.True(t, bytes.Equal(first, got))
			}
			return err
		},
		"Open": func(ctx context.Context, t *testing.T, x *setting) error {
			o, err := x.storage.Open(ctx, "object")
			if err != nil {
				return err
			}
			defer o.Close()
			stored := x.memory.content("object")
			require.EqualValues(t, len(stored), o.Size())
			got := make([]byte, len(stored))
			if n, err := o.ReadAt(got, 0); err != nil || n < len(got) {
				return err
			}
			require.True(t, bytes.Equal(stored, got))
			return nil
		},
		"List": func(ctx context.Context, t *testing.T, x *setting) error {
			var got []string
			for key, err := range x.storage.List(ctx, "") {
				if err != nil {
					return err
				}
				got = append(got, key)
			}
			require.Equal(t, keys, got)
			return nil
		},
		"Stat": func(ctx context.Context, t *testing.T, x *setting) error {
			got, err := x.storage.Stat(ctx, "object")
			if err == nil {
				require.EqualValues(t, len(x.memory.content("object")), aws.ToInt64(got.Size))
			}
			return err
		},
		"Put": put(first, func(ctx context.Context, x *setting, content io.Reader) error {
			return x.storage.Put(ctx, "object", content)
		}),
		"Put in parts": put(second, func(ctx context.Context, x *setting, content io.Reader) error {
			return x.storage.Put(ctx, "object", content)
		}),
		"Put in parts of unknown size": put(second, func(ctx context.Context, x *setting, content io.Reader) error {
			return x.storage.Put(ctx, "object", struct{ io.Reader }{content})
		}),
		"PutNew": put(first, func(ctx context.Context, x *setting, content io.Reader) error {
			err := x.storage.PutNew(ctx, "object", nil, content)
			require.Error(t, err, "there is one")
			return err
		}),
		"Replace": put(first, func(ctx context.Context, x *setting, content io.Reader) error {
			return x.storage.Replace(ctx, x.version, content)
		}),
		"Replace in parts": put(second, func(ctx context.Context, x *setting, content io.Reader) error {
			return x.storage.Replace(ctx, x.version, content)
		}),
		"Replace what was changed": func(ctx context.Context, t *testing.T, x *setting) error {
			x.memory.mu.Lock()
			x.memory.objects["object"] = []byte("newer")
			x.memory.mu.Unlock()
			err := x.storage.Replace(ctx, x.version, bytes.NewReader(first))
			require.Error(t, err)
			require.Equal(t, "newer", string(x.memory.content("object")))
			return err
		},
	}
	for lieName, lie := range lies {
		for doorName, door := range doors {
			memory := newBucketInMemory()
			client := memory.serve(t)
			x := &setting{memory: memory, storage: s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 2), s3storage.WithIdleLimit(500*time.Millisecond))}
			x.host = newHost(t, x.storage)
			x.honest = newHost(t, s3storage.New(client, "bucket"))
			for _, key := range keys {
				require.NoError(t, x.host.Put(t.Context(), key, bytes.NewReader(first)))
			}
			var err error
			x.version, err = x.storage.OpenVersion(t.Context(), "object", "")
			require.NoError(t, err)
			memory.setLie(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("honest") != "" {
					return false
				}
				if lie.before != nil {
					lie.before(r)
				}
				if lie.answer == nil {
					return false
				}
				r.Header.Set("honest", "yes")
				truth := httptest.NewRecorder()
				memory.ServeHTTP(truth, r)
				lie.answer(truth, w, r)
				return true
			})
			t.Run(doorName+" × "+lieName, func(t *testing.T) {
				begin := time.Now()
				err := door(t.Context(), t, x)
				require.Less(t, time.Since(begin), 20*time.Second)
				if err == nil {
					right++
					return
				}
				refused++
				require.Less(t, len(err.Error()), 2000, "%v", err)
				if strings.HasPrefix(lieName, "200") || lieName == "204" {
					require.True(t, errors.Is(err, s3storage.ErrAnswer) || strings.Contains(err.Error(), "InternalError") || slices.Contains([]string{"PutNew"}, doorName) || strings.Contains(err.Error(), "deserialization"), "%v", err)
				}
				if lieName == "no answer" {
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				}
				if lieName == "301 to another Region" {
					require.ErrorContains(t, err, "the bucket is in Region us-west-2, and was asked for in eu-west-1")
				}
				if !strings.HasPrefix(lieName, "404") {
					require.NotErrorIs(t, err, fs.ErrNotExist)
				}
			})
			require.NoError(t, x.version.Body.Close())
		}
	}
	t.Logf("%d doors × %d lies: %d right, %d refused", len(doors), len(lies), right, refused)
}
