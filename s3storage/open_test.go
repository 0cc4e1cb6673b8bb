package s3storage_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/s3storage"
)

// TestOpenReadsNoMoreThanItAskedFor has a service that ignores ranges, of an object of 1 GiB.
func TestOpenReadsNoMoreThanItAskedFor(t *testing.T) {
	const whole = 1 << 30
	for _, header := range []string{"", "bytes 0-4095/1073741824"} {
		b := newBucketInMemory()
		b.setLie(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Content-Length", strconv.Itoa(whole))
			if header != "" {
				w.Header().Set("Content-Range", header)
				w.WriteHeader(http.StatusPartialContent)
			}
			chunk := make([]byte, 1<<20)
			for range whole / len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
			return true
		})
		storage := s3storage.New(b.serve(t), "bucket")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := storage.Open(t.Context(), "object")
		require.ErrorIs(t, err, s3storage.ErrAnswer)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "bytes of memory") // the server has some
	}
}

// TestRangesAreTheOnesAskedFor has answers to the first request of Open, for an object of 10,000
// bytes.
func TestRangesAreTheOnesAskedFor(t *testing.T) {
	content := noise(10_000)
	for _, c := range []struct {
		status int
		header string
		body   []byte
		size   int64 // -1 if it is refused
	}{
		{206, "bytes 0-4095/10000", content[:4096], 10_000},
		{206, "bytes 0-4094/4095", content[:4095], 4095},
		{206, "bytes 0-0/1", content[:1], 1},
		{200, "", nil, 0},

		{200, "", content, -1},
		{206, "", content[:4096], -1},
		{206, "bytes 0-4095/9223372036854775807", content[:100], -1},
		{206, "bytes 0-4095/99999999999999999999", content[:4096], -1},
		{206, "bytes 0-4095/-1", content[:4096], -1},
		{206, "bytes 0-4095/*", content[:4096], -1},
		{206, "bytes 0-4095/0", content[:4096], -1},
		{206, "bytes 0-4095/1", content[:4096], -1},
		{206, "bytes 0-4095/4095", content[:4096], -1},
		{206, "bytes 0-4095/10000x", content[:4096], -1},
		{206, "bytes 1-4096/10000", content[1:4097], -1},
		{206, "bytes 0-99/10000", content[:100], -1},
		{206, "bytes 0-9999/10000", content, -1},
		{206, "bytes -1-4095/10000", content[:4096], -1},
		{206, "x/4096", content[:4096], -1},
		{206, "bytes 0-4095/10000", content[:4095], -1},
		{206, "bytes 0-4095/10000", content[:4097], -1},
		{206, "bytes 0-4095/10000", nil, -1},
	} {
		t.Run(fmt.Sprintf("%d %q, %d bytes", c.status, c.header, len(c.body)), func(t *testing.T) {
			b := newBucketInMemory()
			b.setLie(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("ETag", `"x"`)
				w.Header().Set("Content-Length", strconv.Itoa(len(c.body)))
				if c.header != "" {
					w.Header().Set("Content-Range", c.header)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write(c.body)
				return true
			})
			o, err := s3storage.New(b.serve(t), "bucket").Open(t.Context(), "object")
			if c.size < 0 {
				require.ErrorIs(t, err, s3storage.ErrAnswer)
				return
			}
			require.NoError(t, err)
			defer o.Close()
			require.Equal(t, c.size, o.Size())
			got, err := io.ReadAll(io.NewSectionReader(o, 0, min(c.size, 4096)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(content[:len(got)], got))
		})
	}
}

// TestLaterRangesAreOfTheSameObject replaces the object between two ranges of a service that
// ignores conditions.
func TestLaterRangesAreOfTheSameObject(t *testing.T) {
	for _, size := range []int{100_000, 50_000} {
		b := newBucketInMemory()
		b.setLie(func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-Match"); return false })
		storage := s3storage.New(b.serve(t), "bucket")
		require.NoError(t, storage.Put(t.Context(), "object", bytes.NewReader(noise(100_000))))
		o, err := storage.Open(t.Context(), "object")
		require.NoError(t, err)
		require.NoError(t, storage.Put(t.Context(), "object", bytes.NewReader(noise(size))))
		_, err = o.ReadAt(make([]byte, 100), 20_000)
		require.ErrorIs(t, err, pikokms.ErrChanged)
		_, err = o.ReadAt(make([]byte, 100), 80_000)
		require.Error(t, err)
		require.NoError(t, o.Close())
	}
}

// Without a Content-Length that HTTP holds an answer to, only Content-Range shows that it is cut.
func TestAnAnswerThatEndsTooEarly(t *testing.T) {
	storage := s3storage.New(s3.New(s3.Options{
		Region: "eu-west-1", Credentials: login(), Retryer: aws.NopRetryer{}, HTTPClient: answering{&failing{n: 10}},
	}), "b")
	synctest.Test(t, func(t *testing.T) {
		content, err := storage.Open(t.Context(), "object")
		if err == nil {
			_, err = io.ReadAll(content)
			require.NoError(t, content.Close())
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
