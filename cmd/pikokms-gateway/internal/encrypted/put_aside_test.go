package encrypted_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/internal/race"
)

// trailing is the content of a request with a CRC32 behind it, as the engine decodes it.
type trailing struct {
	io.Reader
	sum string
	err error // what its end is
}

func (r *trailing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		err = r.err
	}
	return n, err
}

func (r *trailing) Algorithm() string { return "crc32" }
func (r *trailing) Checksum() string  { return r.sum }

func crc32Of(content []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(content)))
}

// putTrailing puts an object with its checksum behind it, which is wrong if failure is not nil.
func (b *bucket) putTrailing(key string, content []byte, failure error, change func(*s3response.PutObjectInput)) (s3response.PutObjectOutput, error) {
	if failure == nil {
		failure = io.EOF
	}
	in := s3response.PutObjectInput{
		Bucket: &b.name, Key: &key, ContentLength: aws.Int64(int64(len(content))), Body: &trailing{bytes.NewReader(content), crc32Of(content), failure},
		ContentType: aws.String("text/x-test"), Metadata: map[string]string{"colour": "blue"}, Tagging: aws.String("a=b"),
	}
	if change != nil {
		change(&in)
	}
	return b.PutObject(b.t.Context(), in)
}

// requireWhole requires that an object has the content and its checksum.
func (b *bucket) requireWhole(key string, content []byte) {
	b.t.Helper()
	out, err := b.GetObject(b.t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: &key, Range: aws.String(""), ChecksumMode: "ENABLED"})
	require.NoError(b.t, err)
	got, err := io.ReadAll(out.Body)
	require.NoError(b.t, err)
	require.NoError(b.t, out.Body.Close())
	require.True(b.t, bytes.Equal(content, got))
	require.Equal(b.t, crc32Of(content), aws.ToString(out.ChecksumCRC32))
	head, err := b.HeadObject(b.t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: &key, ChecksumMode: "ENABLED"})
	require.NoError(b.t, err)
	require.Equal(b.t, crc32Of(content), aws.ToString(head.ChecksumCRC32))
	require.EqualValues(b.t, "FULL_OBJECT", head.ChecksumType)
	require.Equal(b.t, "text/x-test", aws.ToString(head.ContentType))
	require.Equal(b.t, map[string]string{"colour": "blue"}, head.Metadata)
	tags, err := b.GetObjectTagging(b.t.Context(), b.name, key, "")
	require.NoError(b.t, err)
	require.Equal(b.t, map[string]string{"a": "b"}, tags)
}

// anotherS3 is a backend, not a folder, that counts what it copies.
type anotherS3 struct {
	backend.Backend
	puts, copies atomic.Int64
}

func (a *anotherS3) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	a.puts.Add(1)
	return a.Backend.PutObject(ctx, in)
}

func (a *anotherS3) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	a.copies.Add(1)
	return a.Backend.UploadPartCopy(ctx, in)
}

// TestTrailingChecksumsAreKept puts objects in front of S3 whose checksum comes behind them.
func TestTrailingChecksumsAreKept(t *testing.T) {
	race.SkipShort(t)
	behindS3 := &anotherS3{Backend: behind}
	b := newBucket(t, behindS3)
	for _, test := range []struct{ size, copies int }{{0, 0}, {1, 0}, {2 << 20, 0}, {8 << 20, 0}, {8<<20 + 1, 1}, {65 << 20, 2}} {
		content := random(test.size)
		before := behindS3.copies.Load()
		put, err := b.putTrailing("a", content, nil, nil)
		require.NoError(t, err)
		require.Equal(t, crc32Of(content), aws.ToString(put.ChecksumCRC32))
		require.EqualValues(t, test.copies, behindS3.copies.Load()-before)
		b.requireWhole("a", content)
		require.Len(t, b.files(), 1, "something is left")
		require.EqualValues(t, test.size, *put.Size)

		// The checksum of a copy is known before, so the copy is stored by one request.
		before, puts := behindS3.copies.Load(), behindS3.puts.Load()
		copied, err := b.CopyObject(t.Context(), s3response.CopyObjectInput{Bucket: &b.name, Key: aws.String("b"), CopySource: aws.String(b.name + "/a")})
		require.NoError(t, err)
		require.Equal(t, crc32Of(content), aws.ToString(copied.CopyObjectResult.ChecksumCRC32))
		b.requireWhole("b", content)
		require.EqualValues(t, 1, behindS3.puts.Load()-puts)
		require.Equal(t, before, behindS3.copies.Load())
		_, err = b.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: aws.String("b")})
		require.NoError(t, err)
	}

	// A wrong checksum leaves what was there.
	old := b.files()
	_, err := b.putTrailing("a", random(9<<20), s3err.GetChecksumBadDigestErr("CRC32"), nil)
	require.Equal(t, "BadDigest", code(err))
	require.Equal(t, old, b.files())

	// Without a checksum of the client's, a long content is stored by one request.
	puts := behindS3.puts.Load()
	_, err = b.put("a", random(9<<20))
	require.NoError(t, err)
	require.EqualValues(t, 1, behindS3.puts.Load()-puts)
}

// TestTrailingChecksumsAtTheSameTime lets several clients put the same object. Each content has its
// own checksum, and by a condition only one client succeeds.
func TestTrailingChecksumsAtTheSameTime(t *testing.T) {
	b := newBucket(t, &anotherS3{Backend: behind})
	for _, condition := range []*string{nil, aws.String("*")} {
		key := "a" + aws.ToString(condition)
		var all sync.WaitGroup
		var won atomic.Int64
		contents := make([][]byte, 6)
		for i := range contents {
			contents[i] = bytes.Repeat([]byte{byte(i)}, 9<<20)
			all.Go(func() {
				_, err := b.putTrailing(key, contents[i], nil, func(in *s3response.PutObjectInput) { in.IfNoneMatch = condition })
				if err == nil {
					won.Add(1)
				} else if code(err) != "PreconditionFailed" || condition == nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if condition != nil {
			require.EqualValues(t, 1, won.Load())
		}
		first, err := b.get(key, "bytes=0-0")
		require.NoError(t, err)
		b.requireWhole(key, contents[first[0]])
	}
	require.Len(t, b.files(), 2)
}

// TestEachCallOfATrailingChecksumFails makes each call fail in its turn. A client sees the whole
// object with its checksum, or the one before. What is left is swept.
func TestEachCallOfATrailingChecksumFails(t *testing.T) {
	race.SkipShort(t)
	before, after := random(9<<20), random(9<<20)
	for _, done := range []bool{false, true} {
		for n := int64(1); ; n++ {
			f := &failing{Backend: behind, after: done}
			b := newBucket(t, f)
			_, err := b.putTrailing("a", before, nil, nil)
			require.NoError(t, err)
			f.left.Store(n)
			_, err = b.putTrailing("a", after, nil, nil)
			reached := f.left.Load() <= 0
			f.left.Store(0)
			want := after
			if err != nil && !bytes.Equal(after, b.visible("a")) {
				want = before
			}
			b.requireWhole("a", want)
			for name := range b.files() {
				require.True(t, name == "a" || strings.HasPrefix(name, ".pikokms/uploads/"), name)
			}
			require.Equal(t, []string{"a"}, b.list(10))
			require.NoError(t, b.Sweep(t.Context(), b.name, 0))
			require.Len(t, b.files(), 1)
			if !reached {
				require.NoError(t, err)
				t.Logf("%d calls", n-1)
				break
			}
		}
	}
}
