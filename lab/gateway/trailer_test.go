package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
)

// withTrailer is a request that puts an object with its CRC32 behind it, as AWS's SDKs send it.
func withTrailer(key string, content []byte) *request {
	return &request{method: "PUT", bucket: bucket, key: key, header: make(http.Header), content: content, chunks: &chunks{
		payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER", trailer: "x-amz-checksum-crc32", size: 64 << 10,
		change: func(_ int, head, data, end string) (string, string, string) { return head, data, end },
		last:   func(text string) string { return text },
	}}
}

func crc32Of(content []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(content)))
}

// TestTrailersInFrontOfS3 puts objects with their checksum behind them in front of LocalStack, which
// is no versitygw.
func TestTrailersInFrontOfS3(t *testing.T) {
	localStack := emulator.LocalStack(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	url := serve(t, newGateway(t, "--upstream", "s3://?region="+region+"&endpoint="+localStack))
	client := newClient(url)
	makeBucket(t, client)
	defer func() {
		_, err := client.DeleteBucket(context.Background(), &s3.DeleteBucketInput{Bucket: aws.String(bucket)})
		require.NoError(t, err)
	}()
	for _, size := range []int{1 << 20, 9 << 20, 65 << 20} {
		content, key := contentOf(uint64(size), size), fmt.Sprint(size)
		for _, condition := range []string{"", "*"} {
			q := withTrailer(key, content)
			want := http.StatusOK
			if condition != "" {
				q.header.Set("If-None-Match", condition)
				want = http.StatusPreconditionFailed
			}
			begin := time.Now()
			status, answer, err := (&connection{address: strings.TrimPrefix(url, "http://")}).send(q)
			require.NoError(t, err)
			require.Equal(t, want, status, "%s", answer)
			t.Logf("%d bytes, If-None-Match %q: %v", size, condition, time.Since(begin))
		}
		begin := time.Now()
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(key + "-without"), Body: bytes.NewReader(content)})
		require.NoError(t, err)
		t.Logf("%d bytes without a checksum: %v", size, time.Since(begin))
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key, ChecksumMode: "ENABLED"})
		require.NoError(t, err)
		got, err := io.ReadAll(out.Body)
		require.NoError(t, err)
		require.NoError(t, out.Body.Close())
		require.True(t, bytes.Equal(content, got))
		require.Equal(t, crc32Of(content), aws.ToString(out.ChecksumCRC32))
		for _, key := range []string{key, key + "-without"} {
			_, err = client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &key})
			require.NoError(t, err)
		}
	}
	behind := newClient(localStack)
	list, err := behind.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	require.NoError(t, err)
	require.Empty(t, list.Contents, "something hidden is left")
	uploads, err := behind.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
	require.NoError(t, err)
	require.Empty(t, uploads.Uploads)
}
