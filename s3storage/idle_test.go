package s3storage_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/s3storage"
)

// slow is a service that takes a byte of a body each second, or only the first ones.
type slow struct{ takes int }

func (s slow) Do(r *http.Request) (*http.Response, error) {
	for n := 0; ; n++ {
		if n == s.takes || r.Body == nil {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		time.Sleep(time.Second)
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		if _, err := r.Body.Read(make([]byte, 1)); err == io.EOF {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"e"`}}, Body: &failing{n: 2}}, nil
		}
	}
}

// failing is the body of an answer that comes slowly and ends with an error, if it has one.
type failing struct {
	n     int
	err   error
	ended <-chan struct{} // of a body that stands still at its end
}

var errStands = errors.New("it stands still")

func (f *failing) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	if f.n--; f.n < 0 && f.ended != nil {
		<-f.ended
		return 0, context.Canceled
	} else if f.n < 0 {
		if f.err != nil {
			return 0, f.err
		}
		return 0, io.EOF
	}
	p[0] = ' '
	return 1, nil
}

func (f *failing) Close() error { return nil }

type answering struct{ body io.ReadCloser }

func (a answering) Do(r *http.Request) (*http.Response, error) {
	if f, ok := a.body.(*failing); ok && f.err == errStands {
		f.ended = r.Context().Done()
	}
	header := http.Header{"Etag": {`"e"`}, "Content-Length": {"20"}, "Content-Range": {"bytes 0-19/20"}}
	return &http.Response{StatusCode: http.StatusPartialContent, ContentLength: 20, Header: header, Body: a.body}, nil
}

// TestWhatIsSlowIsNotIdle has an upload and a download that take far longer than the limit, and go
// on all the time.
func TestWhatIsSlowIsNotIdle(t *testing.T) {
	open := func(client s3.HTTPClient) *s3storage.Storage {
		return s3storage.New(s3.New(s3.Options{
			Region: "eu-west-1", Credentials: login(), Retryer: aws.NopRetryer{}, HTTPClient: client, RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		}), "b", s3storage.WithIdleLimit(3*time.Second))
	}
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, open(slow{takes: 1000}).Put(t.Context(), "object", strings.NewReader("twenty bytes of text")))
		require.ErrorIs(t, open(slow{takes: 5}).Put(t.Context(), "object", strings.NewReader("twenty bytes of text")), os.ErrDeadlineExceeded)

		broken := errors.New("broken")
		for n, want := range map[int]error{20: nil, 10: broken, 5: errStands} {
			content, err := open(answering{&failing{n: n, err: want}}).Open(t.Context(), "object")
			if err == nil {
				_, err = io.ReadAll(content)
				require.NoError(t, content.Close())
			}
			if want == errStands {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				continue
			}
			require.ErrorIs(t, err, want)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		}
	})
}
