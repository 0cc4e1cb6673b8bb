package s3storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/s3storage"
)

// breaking makes requests calls, and fails them in one of several ways.
type breaking struct {
	http.Transport
	calls *adversary.Calls
	way   string

	unnamed bool // an upload was begun, and its ID is lost
}

func (b *breaking) RoundTrip(r *http.Request) (*http.Response, error) {
	failure := b.calls.Call(r.Method)
	if failure == nil {
		return b.Transport.RoundTrip(r)
	}
	if b.way == "not sent" {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, failure
	}
	answer, err := b.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	b.unnamed = r.URL.Query().Has("uploads")
	switch b.way {
	case "answer lost":
		_ = answer.Body.Close()
		return nil, failure
	case "answer cut":
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(answer.Body, max(0, answer.ContentLength/2)), failed{failure}), answer.Body}
	default:
		_ = answer.Body.Close()
		answer.StatusCode, answer.Status = http.StatusServiceUnavailable, "503 Slow Down"
		answer.Body = io.NopCloser(strings.NewReader("<Error><Code>SlowDown</Code><Message>fault: slow down</Message></Error>"))
	}
	return answer, nil
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// TestAFaultAtEachRequest breaks each request to S3 in its turn. The object that was there stays,
// or the whole new one is there, and no part of an upload stays. (An upload whose ID is lost with
// S3's answer can't be deleted: a lifecycle rule does that.)
func TestAFaultAtEachRequest(t *testing.T) {
	race.SkipShort(t)
	before := goleak.IgnoreCurrent()
	content := noise(10<<20 + 100_000)
	faults := 0
	for _, size := range []int{100_000, len(content)} {
		content := content[:size]
		for _, way := range []string{"not sent", "answer lost", "answer cut", "503"} {
			for name, door := range map[string]func(t *testing.T, s *pikokms.Host) error{
				"Put": func(t *testing.T, s *pikokms.Host) error {
					return s.Put(t.Context(), "object", bytes.NewReader(content))
				},
				"Put of unknown size": func(t *testing.T, s *pikokms.Host) error {
					return s.Put(t.Context(), "object", struct{ io.Reader }{bytes.NewReader(content)})
				},
				"Get": func(t *testing.T, s *pikokms.Host) error {
					r, err := s.Get(t.Context(), "object")
					if err != nil {
						return err
					}
					got, err := io.ReadAll(r)
					require.True(t, bytes.HasPrefix(content, got))
					return errors.Join(err, r.Close())
				},
				"Open": func(t *testing.T, s *pikokms.Host) error {
					o, err := s.Open(t.Context(), "object")
					if err != nil {
						return err
					}
					got, err := io.ReadAll(o)
					require.True(t, bytes.HasPrefix(content, got))
					return errors.Join(err, o.Close())
				},
				"Rewrap": func(t *testing.T, s *pikokms.Host) error { return s.Rewrap(t.Context(), "object") },
				"Delete": func(t *testing.T, s *pikokms.Host) error { return s.Delete(t.Context(), "object") },
				"List": func(t *testing.T, s *pikokms.Host) error {
					for _, err := range s.List(t.Context(), "") {
						if err != nil {
							return err
						}
					}
					return nil
				},
			} {
				if size > 1<<20 && !strings.HasPrefix(name, "Put") {
					continue // it makes the same requests for an object of any size
				}
				faults += adversary.EachCall(func(c *adversary.Calls) {
					b := newBucketInMemory()
					server := httptest.NewServer(b)
					defer server.Close()
					transport := &breaking{calls: &adversary.Calls{}, way: way}
					defer transport.CloseIdleConnections()
					client := s3.New(s3.Options{
						Region: "eu-west-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: login(), Retryer: aws.NopRetryer{},
						HTTPClient: &http.Client{Transport: transport},
					})
					host := newHost(t, s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 2)))
					old, writes := content, name == "Rewrap"
					if strings.HasPrefix(name, "Put") {
						old, writes = []byte("old"), true
					}
					require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(old)))
					first := b.content("object")
					transport.calls = c
					err := door(t, host)
					what := fmt.Sprintf("%s of %d bytes, request %d: %s", name, size, c.Made(), way)
					if c.Failed() {
						switch {
						case err != nil:
						case writes && way != "not sent": // what was stored is looked for
							require.False(t, bytes.Equal(first, b.content("object")), "%s: it is not there, without an error", what)
						default:
							require.Equal(t, "answer cut", way, "%s: an error is missing", what) // a body that nobody needs
						}
					} else {
						require.NoError(t, err, what)
					}
					transport.calls = &adversary.Calls{}
					b.mu.Lock()
					if !transport.unnamed {
						require.Empty(t, b.uploads, what)
					}
					_, exists := b.objects["object"]
					b.mu.Unlock()
					if !exists {
						require.Equal(t, "Delete", name, what)
						return
					}
					got := get(t, host, "object")
					require.True(t, bytes.Equal(content, got) || err != nil && bytes.Equal(old, got), what)
				})
			}
		}
	}
	t.Logf("%d faults", faults)
	goleak.VerifyNone(t, before)
}

// TestALostAnswerToAReplacement has the AWS SDK send a conditional put a second time. The first one
// has made its condition false, or has ended the upload in parts. That is no change by another.
func TestALostAnswerToAReplacement(t *testing.T) {
	content := noise(100_000)
	b := newBucketInMemory()
	server := httptest.NewServer(b)
	defer server.Close()
	transport := &breaking{calls: &adversary.Calls{}, way: "answer lost"}
	defer transport.CloseIdleConnections()
	client := s3.New(s3.Options{
		Region: "eu-west-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: login(),
		Retryer:    retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
		HTTPClient: &http.Client{Transport: transport},
	})
	for name, c := range map[string]struct {
		replacement []byte
		loses, made int
		says        string
	}{
		"in one request": {[]byte("new"), 5, 7, "tags, owners, ACL, a look, the put, the put again, and what is there"},
		"in parts":       {noise(11 << 20), 8, 11, "tags, owners, ACL, begin, two parts, a look, end, end again, abort, and what is there"},
	} {
		t.Run(name, func(t *testing.T) {
			storage := s3storage.New(client, "bucket", s3storage.WithParts(5<<20, 5))
			transport.calls = &adversary.Calls{}
			require.NoError(t, storage.Put(t.Context(), "object", bytes.NewReader(content)))
			r, version, err := storage.GetVersion(t.Context(), "object")
			require.NoError(t, err)
			require.NoError(t, r.Close())
			transport.calls = &adversary.Calls{Fails: func(n int) bool { return n == c.loses }}
			require.NoError(t, storage.PutIf(t.Context(), "object", version, bytes.NewReader(c.replacement)))
			require.Equal(t, c.made, transport.calls.Made(), c.says)
			require.True(t, bytes.Equal(c.replacement, b.content("object")))

			// What another has put is another's.
			transport.calls = &adversary.Calls{}
			err = storage.PutIf(t.Context(), "object", version, bytes.NewReader([]byte("mine")))
			require.ErrorIs(t, err, pikokms.ErrChanged)
			require.True(t, bytes.Equal(c.replacement, b.content("object")))
		})
	}
}
