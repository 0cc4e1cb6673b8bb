package encrypted_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend/meta"
)

// TestListingsAgreeWithHeads lists a folder whose files' attributes are as the gateway wrote them,
// missing, of another engine's kind, or changed.
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
