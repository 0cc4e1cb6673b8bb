package s3storage_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/s3storage"
)

func TestRewrapBesidePutsAndDeletes(t *testing.T) {
	operations := 100
	if testing.Short() {
		operations = 10
	}
	b := newBucket(t)
	// Without versions LocalStack 4.14 hangs: where a GET finds its object deleted, it never gives up
	// the lock of the object's file, and the next PUT of that key waits for it.
	_, err := b.client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket:                  &b.name,
		VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
	})
	require.NoError(t, err)
	client := s3.New(b.client.Options(), func(o *s3.Options) { o.HTTPClient = &oneWrite{HTTPClient: o.HTTPClient} })
	application := newHost(t, s3storage.New(client, b.name))
	rewrapper := newHost(t, s3storage.New(client, b.name))
	adversary.RewrapBeside(t, application, rewrapper, 10, operations)
}

// oneWrite lets one request at a time write. S3 decides on a conditional write in one step.
// LocalStack 4.14 does not: it takes a lock for it, and none for a DELETE or another PUT, which can
// come between.
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
