package s3storage_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/s3storage"
)

func TestRewrapBesidePutsAndDeletes(t *testing.T) {
	operations := 100
	if testing.Short() {
		operations = 10
	}
	b := newBucket(t)
	client := s3.New(b.client.Options(), func(o *s3.Options) { o.HTTPClient = &oneWrite{HTTPClient: o.HTTPClient} })
	application := newHost(t, s3storage.New(client, b.name))
	rewrapper := newHost(t, s3storage.New(client, b.name))
	adversary.RewrapBeside(t, application, rewrapper, 10, operations)
}

// oneWrite lets one request at a time write. S3 decides on a conditional write in one step.
// Versity's gateway 1.8.0 does not: a DELETE can come between.
type oneWrite struct {
	s3.HTTPClient
	writing sync.Mutex
}

func (c *oneWrite) Do(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodGet && request.Method != http.MethodHead {
		c.writing.Lock()
		defer c.writing.Unlock()
	}
	return c.HTTPClient.Do(request)
}
