package s3storage_test

import (
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/s3storage"
)

const inParts = 10<<20 + 1 // bytes, which are uploaded in parts of 5 MiB

// isComplete reports whether a request completes an upload in parts.
func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

// isPut reports whether a request puts an object.
func isPut(r *http.Request) bool {
	return r.Method == http.MethodPut && !r.URL.Query().Has("partNumber")
}

// quiet answers a request as the bucket does, without the ETag and the body.
type quiet struct{ http.ResponseWriter }

func (q quiet) Write(p []byte) (int, error) { return len(p), nil }

func (q quiet) WriteHeader(status int) {
	q.Header().Del("ETag")
	q.ResponseWriter.WriteHeader(status)
}

// TestUploadsAreThereOrAnError has a service that answers 200 to the request that makes an object
// appear, and says nothing more. Whether the object is there decides.
func TestUploadsAreThereOrAnError(t *testing.T) {
	race.SkipShort(t)
	older := noise(inParts)
	for name, body := range map[string]string{
		"nothing": "", "spaces": "    \n  ", "an error": errorBody, "a page": "<html></html>",
		"another result": "<InitiateMultipartUploadResult/>", "a result without an ETag": "<CompleteMultipartUploadResult><Bucket>bucket</Bucket></CompleteMultipartUploadResult>",
	} {
		for _, size := range []int{1000, inParts} {
			for _, known := range []bool{true, false} {
				if size == inParts && !known && body != "" {
					continue // it makes the same requests
				}
				for _, stored := range []bool{true, false} {
					content := noise(size)
					b := newBucketInMemory()
					storage := s3storage.New(b.serve(t), "bucket", s3storage.WithParts(5<<20, 3))
					require.NoError(t, storage.Put(t.Context(), "object", bytes.NewReader(older[:size])), "one of the same size is there before")
					busy := false
					b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
						if busy || !isComplete(r) && !isPut(r) {
							return false
						}
						if stored {
							busy = true
							b.ServeHTTP(quiet{w}, r)
							busy = false
						}
						w.Header().Del("ETag")
						_, _ = io.WriteString(w, body)
						return true
					})
					source := io.Reader(bytes.NewReader(content))
					if known {
						source = sized{bytes.NewReader(content)}
					}
					err := storage.Put(t.Context(), "object", source)
					if stored {
						require.NoError(t, err, name)
					} else if body != errorBody {
						require.ErrorIs(t, err, s3storage.ErrAnswer, name)
					} else {
						require.ErrorContains(t, err, "InternalError", name)
					}
					if err == nil {
						require.True(t, bytes.Equal(content, b.content("object")), name)
					}
					require.Empty(t, b.unfinished(), name)
				}
			}
		}
	}
}

// A status that means that the service failed may come after the object was stored. One that
// refuses does not, so nobody looks then.
func TestAFailureAfterTheObjectWasStored(t *testing.T) {
	for status, looked := range map[int]bool{200: true, 299: true, 300: false, 403: false, 429: false, 499: false, 500: true, 503: true} {
		b := newBucketInMemory()
		storage := s3storage.New(b.serve(t), "bucket")
		busy, gets := false, 0
		b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				gets++
			}
			if busy || !isPut(r) {
				return false
			}
			busy = true
			b.ServeHTTP(httptest.NewRecorder(), r)
			busy = false
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<Error><Code>Odd</Code></Error>")
			return true
		})
		err := storage.Put(t.Context(), "object", bytes.NewReader(noise(1000)))
		require.Equal(t, looked, err == nil, "%d: %v", status, err)
		require.Equal(t, looked, gets > 0, status)
	}
}

func TestPartsAreThereOrAnError(t *testing.T) {
	for name, lie := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"a part without an ETag": func(_ http.ResponseWriter, r *http.Request) bool { return r.URL.Query().Has("partNumber") },
		"an upload without an ID": func(w http.ResponseWriter, r *http.Request) bool {
			if !r.URL.Query().Has("uploads") {
				return false
			}
			_, _ = io.WriteString(w, "<InitiateMultipartUploadResult/>")
			return true
		},
	} {
		b := newBucketInMemory()
		b.setLie(lie)
		err := s3storage.New(b.serve(t), "bucket", s3storage.WithParts(5<<20, 3)).Put(t.Context(), "object", bytes.NewReader(noise(inParts)))
		require.ErrorIs(t, err, s3storage.ErrAnswer, name)
		require.Empty(t, b.unfinished(), name)
		require.Empty(t, b.keys(), name)
	}
}

// conditionalDoors are the ways to put an object on a condition. Those that replace one do so with
// the object "object" as it is now.
func conditionalDoors(t *testing.T, storage *s3storage.Storage) map[string]func(key string, content []byte) error {
	open := func() *s3storage.Version {
		v, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, v.Body.Close())
		return v
	}
	v := open()
	r, version, err := storage.GetVersion(t.Context(), "object")
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return map[string]func(key string, content []byte) error{
		"Replace": func(key string, content []byte) error {
			return storage.Replace(t.Context(), v, bytes.NewReader(content))
		},
		"PutIf": func(key string, content []byte) error {
			return storage.PutIf(t.Context(), key, version, bytes.NewReader(content))
		},
		"PutNew": func(key string, content []byte) error {
			return storage.PutNew(t.Context(), key, v, bytes.NewReader(content))
		},
	}
}

// TestServicesWithoutConditions has a service that answers 501 to a conditional write, one that
// ignores conditions, and one without ETags.
func TestServicesWithoutConditions(t *testing.T) {
	race.SkipShort(t)
	notImplemented := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || r.Header.Get("If-Match")+r.Header.Get("If-None-Match") == "" {
			return false
		}
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = io.WriteString(w, "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented</Message></Error>")
		return true
	}
	ignored := func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("If-Match")
		r.Header.Del("If-None-Match")
		return false
	}
	for name, c := range map[string]struct {
		lie     func(w http.ResponseWriter, r *http.Request) bool
		options []s3storage.Option
		err     error
	}{
		"not implemented":                          {notImplemented, nil, s3storage.ErrNoConditions},
		"not implemented, nothing else writes":     {notImplemented, []s3storage.Option{s3storage.WithSoleWriter()}, nil},
		"ignored":                                  {ignored, nil, nil},
		"implemented, though nothing else writes ": {nil, []s3storage.Option{s3storage.WithSoleWriter()}, nil},
	} {
		for _, size := range []int{1000, inParts} {
			for _, door := range []string{"Replace", "PutIf", "PutNew"} {
				t.Run(name+", "+door, func(t *testing.T) {
					content := noise(size)
					b := newBucketInMemory()
					storage := s3storage.New(b.serve(t), "bucket", append(c.options, s3storage.WithParts(5<<20, 3))...)
					require.NoError(t, storage.Put(t.Context(), "object", strings.NewReader("first")))
					put := conditionalDoors(t, storage)[door]
					b.setLie(c.lie)
					key, broken := "object", pikokms.ErrChanged
					if door == "PutNew" {
						key, broken = "new", fs.ErrExist
					}
					err := put(key, content)
					require.Empty(t, b.unfinished())
					if c.err != nil {
						require.ErrorIs(t, err, c.err)
						require.Equal(t, "first", string(b.content("object")))
						require.Nil(t, b.content("new"))
						return
					}
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, b.content(key)))
					require.ErrorIs(t, put(key, noise(size)), broken, "it is another one now")
					require.True(t, bytes.Equal(content, b.content(key)))
				})
			}
		}
	}
}

// TestServicesWithoutETags has a service that has none. Nothing is replaced without a condition.
func TestServicesWithoutETags(t *testing.T) {
	b := newBucketInMemory()
	lie := func(w http.ResponseWriter, r *http.Request) bool {
		b.setLie(nil)
		b.ServeHTTP(withoutETag{w}, r)
		return true
	}
	client := b.serve(t)
	again := func() { b.setLie(lie) }
	storage := s3storage.New(client, "bucket")
	again()
	require.NoError(t, storage.Put(t.Context(), "object", strings.NewReader("first")), "it is read back")
	for _, soleWriter := range []bool{false, true} {
		if soleWriter {
			storage = s3storage.New(client, "bucket", s3storage.WithSoleWriter())
		}
		again()
		v, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, v.Body.Close())
		require.Empty(t, v.ETag)
		b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				return lie(w, r)
			}
			return false
		})
		err = storage.Replace(t.Context(), v, strings.NewReader("second"))
		if !soleWriter {
			require.ErrorIs(t, err, s3storage.ErrNoConditions)
			require.Equal(t, "first", string(b.content("object")))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "second", string(b.content("object")))
	}
}

// withoutETag takes the ETag off an answer, and gives it a time.
type withoutETag struct{ http.ResponseWriter }

func (w withoutETag) WriteHeader(status int) {
	w.Header().Del("ETag")
	w.Header().Set("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
	w.ResponseWriter.WriteHeader(status)
}

func (w withoutETag) Write(p []byte) (int, error) {
	w.Header().Del("ETag")
	w.Header().Set("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
	return w.ResponseWriter.Write(p)
}

// TestALostAnswerToANewObject has the AWS SDK send the request again, which S3 refuses since the
// first one made the object.
func TestALostAnswerToANewObject(t *testing.T) {
	for _, size := range []int{1000, inParts} {
		b := newBucketInMemory()
		transport := &breaking{calls: &adversary.Calls{}, way: "answer lost"}
		defer transport.CloseIdleConnections()
		client := b.serve(t, func(o *s3.Options) {
			o.HTTPClient, o.Retryer = &http.Client{Transport: transport}, retry.NewStandard()
		})
		last := 2 // a look, and the put
		if size == inParts {
			last = 5 // begin, two parts, a look, end
		}
		transport.calls = &adversary.Calls{Fails: func(n int) bool { return n == last }}
		content := noise(size)
		storage := s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 1))
		require.NoError(t, storage.PutNew(t.Context(), "object", nil, bytes.NewReader(content)))
		require.Greater(t, transport.calls.Made(), last+1, "it was sent again")
		require.True(t, bytes.Equal(content, b.content("object")))
		require.ErrorIs(t, storage.PutNew(t.Context(), "object", nil, bytes.NewReader(noise(size))), fs.ErrExist)
		require.True(t, bytes.Equal(content, b.content("object")))
	}
}

// TestObjectsNameTheirChecksum looks at the requests of small and large objects.
func TestObjectsNameTheirChecksum(t *testing.T) {
	for _, want := range []aws.RequestChecksumCalculation{aws.RequestChecksumCalculationWhenRequired, aws.RequestChecksumCalculationWhenSupported} {
		for _, size := range []int{0, 1000, inParts} {
			b := newBucketInMemory()
			var named []string
			b.setLie(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut || r.URL.Query().Has("uploads") {
					named = append(named, r.Header.Get("X-Amz-Sdk-Checksum-Algorithm")+r.Header.Get("X-Amz-Checksum-Algorithm"))
				}
				return false
			})
			client := b.serve(t, func(o *s3.Options) { o.RequestChecksumCalculation = want })
			require.NoError(t, s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 1)).Put(t.Context(), "object", bytes.NewReader(noise(size))))
			require.NotEmpty(t, named)
			for _, name := range named {
				if want == aws.RequestChecksumCalculationWhenRequired {
					require.Empty(t, name)
				} else {
					require.Equal(t, "CRC32", name)
				}
			}
		}
	}
}

func TestRequesterPays(t *testing.T) {
	b := newBucketInMemory()
	requests := 0
	b.setLie(func(_ http.ResponseWriter, r *http.Request) bool {
		requests++
		if r.Header.Get("X-Amz-Request-Payer") != "requester" || !strings.Contains(r.Header.Get("Authorization"), "x-amz-request-payer") {
			t.Errorf("%s %s does not say who pays", r.Method, r.URL)
		}
		return false
	})
	payer := s3.WithAPIOptions(smithyhttp.SetHeaderValue("X-Amz-Request-Payer", "requester"))
	storage := s3storage.New(b.serve(t, payer), "bucket", s3storage.WithParts(5<<20, 1))
	for _, size := range []int{10, inParts} {
		require.NoError(t, storage.Put(t.Context(), "object", bytes.NewReader(noise(size))))
		v, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, storage.Replace(t.Context(), v, bytes.NewReader(noise(size))))
		require.NoError(t, v.Body.Close())
	}
	o, err := storage.Open(t.Context(), "object")
	require.NoError(t, err)
	_, err = o.ReadAt(make([]byte, 10), 6<<20)
	require.NoError(t, err)
	require.NoError(t, o.Close())
	for _, err := range storage.List(t.Context(), "") {
		require.NoError(t, err)
	}
	require.NoError(t, storage.Delete(t.Context(), "object"))
	require.Greater(t, requests, 15)
}

// TestNewObjectsOfServicesThatKeepTheCondition counts the requests for new objects: each is one,
// once the service has refused to put an object twice.
func TestNewObjectsOfServicesThatKeepTheCondition(t *testing.T) {
	for name, ignored := range map[string]bool{"kept": false, "ignored": true} {
		b := newBucketInMemory()
		var made []string
		b.setLie(func(_ http.ResponseWriter, r *http.Request) bool {
			made = append(made, r.Method)
			if ignored {
				r.Header.Del("If-None-Match")
			}
			return false
		})
		storage := s3storage.New(b.serve(t), "bucket")
		require.NoError(t, storage.PutNew(t.Context(), "a", nil, strings.NewReader("a")))
		require.Equal(t, []string{"HEAD", "PUT", "PUT"}, made)
		made = nil
		require.NoError(t, storage.PutNew(t.Context(), "b", nil, strings.NewReader("b")))
		require.ErrorIs(t, storage.PutNew(t.Context(), "b", nil, strings.NewReader("other")), fs.ErrExist)
		require.Equal(t, "b", string(b.content("b")))
		if ignored {
			require.Equal(t, []string{"HEAD", "PUT", "HEAD"}, made, name)
		} else {
			require.Equal(t, []string{"PUT", "PUT", "GET", "HEAD"}, made, "the last is asked whether it is the same, and whether it is there")
		}
	}
}
