package s3storage_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/s3storage"
)

// TestRewrapBesidePutsAndDeletes has an application put and delete objects while another process
// rewraps them without pause. Each key has one writer, so after each of its calls it knows what
// must be there.
func TestRewrapBesidePutsAndDeletes(t *testing.T) {
	const writers = 10
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
	key := func(i int) string { return fmt.Sprintf("folder-%d/object", i) }

	done := make(chan struct{})
	var rewrapped, changed atomic.Int64
	var rewrapping sync.WaitGroup
	for range 4 {
		rewrapping.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				err := rewrapper.Rewrap(t.Context(), key(rand.IntN(writers)))
				switch {
				case err == nil:
					rewrapped.Add(1)
				case errors.Is(err, pikokms.ErrChanged):
					changed.Add(1)
				case !errors.Is(err, fs.ErrNotExist):
					t.Errorf("rewrap: %v", err)
				}
			}
		})
	}
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for n := range operations {
				deletes := n%3 == 2
				want := fmt.Sprintf("%d of %d", n, i)
				if deletes {
					if err := application.Delete(t.Context(), key(i)); err != nil {
						t.Errorf("delete: %v", err)
					}
				} else if err := application.Put(t.Context(), key(i), strings.NewReader(want)); err != nil {
					t.Errorf("put: %v", err)
				}
				for range 2 { // a rewrapping that had begun may end now
					content, err := application.Get(t.Context(), key(i))
					if deletes {
						if !errors.Is(err, fs.ErrNotExist) {
							t.Errorf("a deleted object came back: %v", err)
						}
						continue
					}
					if err != nil {
						t.Errorf("an object that was put is lost: %v", err)
						continue
					}
					got, err := io.ReadAll(content)
					if err := errors.Join(err, content.Close()); err != nil || string(got) != want {
						t.Errorf("%q is there, %q was put: %v", got, want, err)
					}
				}
			}
		})
	}
	writing.Wait()
	close(done)
	rewrapping.Wait()
	t.Logf("%d puts and deletes beside %d rewrappings and %d that found the object changed", writers*operations, rewrapped.Load(), changed.Load())
	require.NotZero(t, rewrapped.Load())
}
