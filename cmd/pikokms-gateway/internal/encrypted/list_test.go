package encrypted_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3response"
)

// TestListingsAgreeWithHeads lists a folder whose files have the attributes that the gateway wrote,
// none, those of another engine, or changed ones.
func TestListingsAgreeWithHeads(t *testing.T) {
	b := newBucket(t, behind)
	files := meta.XattrMeta{}
	set := func(name, value string) func(string) error {
		return func(key string) error { return files.StoreAttribute(nil, b.name, key, name, []byte(value)) }
	}
	sizes := make(map[string]int64)
	for i, size := range []int64{0, 1, 64 << 10, 100_000} {
		for name, change := range map[string]func(key string) error{
			"as written":         func(string) error { return nil },
			"without metadata":   func(key string) error { return files.DeleteAttribute(b.name, key, "metadata") },
			"no JSON":            set("metadata", "{"),
			"other metadata":     set("metadata", `{"a":"b"}`),
			"header of no size":  set("metadata", `{"pikokms-header-size":"-1"}`),
			"longer than stored": set("metadata", `{"pikokms-header-size":"4000000000"}`),
			"another ETag":       set("etag", `"0123456789abcdef0123456789abcdef"`),
		} {
			key := fmt.Sprintf("%s/%d", name, i)
			_, err := b.put(key, bytes.Repeat([]byte{'x'}, int(size)))
			require.NoError(t, err)
			require.NoError(t, change(key))
			sizes[key] = size
		}
	}
	in := &s3.ListObjectsV2Input{
		Bucket: &b.name, MaxKeys: aws.Int32(1000), ContinuationToken: aws.String(""), StartAfter: aws.String(""), Prefix: aws.String(""), Delimiter: aws.String(""),
	}
	for range 2 { // the second time they were seen
		page, err := b.ListObjectsV2(t.Context(), in)
		require.NoError(t, err)
		require.Len(t, page.Contents, len(sizes))
		for _, o := range page.Contents {
			require.Equal(t, sizes[*o.Key], *o.Size, *o.Key)
			head, err := b.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: o.Key})
			require.NoError(t, err)
			require.Equal(t, *head.ContentLength, *o.Size, *o.Key)
			require.Equal(t, *head.ETag, *o.ETag, *o.Key)
		}
	}

	_, err := b.put("as written/0", []byte("replaced"))
	require.NoError(t, err)
	in.Prefix = aws.String("as written/0")
	page, err := b.ListObjectsV2(t.Context(), in)
	require.NoError(t, err)
	require.EqualValues(t, len("replaced"), *page.Contents[0].Size)
	require.Equal(t, []types.ChecksumAlgorithm{types.ChecksumAlgorithmCrc64nvme}, page.Contents[0].ChecksumAlgorithm)
}

// countingHeads is a backend, not a folder, that counts HEAD requests.
type countingHeads struct {
	backend.Backend
	heads atomic.Int64
}

func (c *countingHeads) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	c.heads.Add(1)
	return c.Backend.HeadObject(ctx, in)
}

// TestListingsAskOnce lists objects in front of S3. The gateway that has put them, or has listed
// them, need not ask for them.
func TestListingsAskOnce(t *testing.T) {
	c := &countingHeads{Backend: behind}
	b := newBucket(t, c)
	for i := range 300 {
		_, err := b.put(fmt.Sprint(i), make([]byte, i))
		require.NoError(t, err)
	}
	list := func(heads int64) (all []s3response.Object) {
		t.Helper()
		before := c.heads.Load()
		page, err := b.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{
			Bucket: &b.name, MaxKeys: aws.Int32(1000), ContinuationToken: aws.String(""), StartAfter: aws.String(""), Prefix: aws.String(""), Delimiter: aws.String(""),
		})
		require.NoError(t, err)
		require.Len(t, page.Contents, 300)
		for _, o := range page.Contents {
			require.Equal(t, *o.Key, fmt.Sprint(*o.Size))
		}
		require.Equal(t, heads, c.heads.Load()-before)
		return page.Contents
	}
	put := list(0)
	b.Backend = newBackend(t, c, b.keys) // another gateway
	require.Equal(t, put, list(300))
	require.Equal(t, put, list(0))
}
