package s3storage_test

import (
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
	application := newHost(t, s3storage.New(b.client, b.name))
	rewrapper := newHost(t, s3storage.New(b.client, b.name))
	adversary.RewrapBeside(t, application, rewrapper, 10, operations)
}
