package s3storage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/s3storage"
)

// requests counts what goes over the wire.
type requests struct {
	http.Transport
	mu    sync.Mutex
	made  map[string]int // by method and operation
	read  int64          // bytes of answers
	sizes []int64        // of the bodies of PUT requests
}

func (r *requests) RoundTrip(request *http.Request) (*http.Response, error) {
	r.mu.Lock()
	name := request.Method
	for _, parameter := range []string{"uploads", "partNumber", "uploadId", "list-type"} {
		if request.URL.Query().Has(parameter) {
			name += " " + parameter
			break
		}
	}
	r.made[name]++
	if request.Method == http.MethodPut {
		r.sizes = append(r.sizes, request.ContentLength)
	}
	r.mu.Unlock()
	answer, err := r.Transport.RoundTrip(request)
	if err == nil {
		answer.Body = &counted{answer.Body, r}
	}
	return answer, err
}

func (r *requests) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made, r.read, r.sizes = make(map[string]int), 0, nil
}

type counted struct {
	io.ReadCloser
	requests *requests
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	c.requests.read += int64(n)
	return n, err
}

// bucket is a new bucket, and the requests that are made to it.
type bucket struct {
	name   string
	client *s3.Client
	requests
}

func login() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, "")
}

// newBucket makes a bucket of Versity's gateway.
func newBucket(t *testing.T) *bucket {
	t.Helper()
	return newBucketAt(t, emulator.VersityGW(t))
}

func newBucketAt(t *testing.T, endpoint string, options ...func(*s3.CreateBucketInput)) *bucket {
	t.Helper()
	b := &bucket{name: "b-" + strings.ToLower(rand.Text())}
	b.client = s3.New(s3.Options{
		Region: emulator.Region, BaseEndpoint: &endpoint, UsePathStyle: true, Credentials: login(),
		HTTPClient: &http.Client{Transport: &b.requests},
	})
	b.reset()
	t.Cleanup(b.CloseIdleConnections)
	in := &s3.CreateBucketInput{
		Bucket:                    &b.name,
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: emulator.Region},
	}
	for _, o := range options {
		o(in)
	}
	_, err := b.client.CreateBucket(t.Context(), in)
	require.NoError(t, err)
	b.reset()
	return b
}

// uploads returns the keys of uploads that are not finished.
func (b *bucket) uploads(t *testing.T) (keys []string) {
	t.Helper()
	out, err := b.client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.name})
	require.NoError(t, err)
	for _, upload := range out.Uploads {
		keys = append(keys, aws.ToString(upload.Key))
	}
	return keys
}

func newHost(t *testing.T, storage pikokms.Storage, options ...pikokms.Option) *pikokms.Host {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	host, err := pikokms.New(append(options, pikokms.WithCryptoProvider("local", p), pikokms.WithDefaultCryptoProvider("local"), pikokms.WithStorage(storage))...)
	require.NoError(t, err)
	return host
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func get(t *testing.T, storage pikokms.Storage, key string) []byte {
	t.Helper()
	r, err := storage.Get(t.Context(), key)
	require.NoError(t, err)
	content, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	return content
}

func TestLargeObjectUnderKMS(t *testing.T) {
	b := newBucket(t)
	server := kmstest.NewServer(t)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: server.CreateKey(kmstest.Key{Region: emulator.Region}).ARN, Client: kms.New(kms.Options{Region: emulator.Region, BaseEndpoint: &server.URL, Credentials: login()})})
	require.NoError(t, err)
	host, err := pikokms.New(pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"), pikokms.WithStorage(s3storage.New(b.client, b.name)))
	require.NoError(t, err)

	content := noise(66<<20 + 12345)
	for name, source := range map[string]io.Reader{
		"of known size":   bytes.NewReader(content),
		"of unknown size": io.LimitReader(bytes.NewReader(content), int64(len(content))),
	} {
		b.reset()
		require.NoError(t, host.Put(t.Context(), "video", source), name)
		parts := 9 // of 8 MiB, or the first one of 16 MiB
		if name == "of unknown size" {
			parts = 8
		}
		require.Equal(t, map[string]int{"POST uploads": 1, "PUT partNumber": parts, "POST uploadId": 1}, b.made, name)
		require.True(t, bytes.Equal(content, get(t, host, "video")), name)
		require.Empty(t, b.uploads(t), name)
	}

	// The checksum is that of what is stored.
	head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("video"), ChecksumMode: s3types.ChecksumModeEnabled})
	require.NoError(t, err)
	require.NotEmpty(t, head.ChecksumCRC32)
	require.Equal(t, "application/octet-stream", aws.ToString(head.ContentType))
	stored := get(t, s3storage.New(b.client, b.name), "video")
	require.EqualValues(t, len(stored), aws.ToInt64(head.ContentLength))
	require.True(t, header.Sniff(stored))
}

func TestSmallObjectsAreOneRequest(t *testing.T) {
	b := newBucket(t)
	host := newHost(t, s3storage.New(b.client, b.name), pikokms.WithEnabledTransformers("zstd"))
	for _, size := range []int{0, 1, 100_000, 10 << 20} {
		content := noise(size)
		b.reset()
		require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(content)))
		require.Equal(t, map[string]int{"PUT": 1}, b.made)
		require.Greater(t, b.sizes[0], int64(size), "the size of the whole request is stated, with what its checksum takes")
		require.True(t, bytes.Equal(content, get(t, host, "object")))
	}
}

// TestReplaceIfUnchanged replaces an object on the condition that it is unchanged. It does so in
// one request and in parts, of known and of unknown size.
func TestReplaceIfUnchanged(t *testing.T) {
	b := newBucket(t)
	storage := s3storage.New(b.client, b.name)
	read := func(key string) string {
		content, version, err := storage.GetVersion(t.Context(), key)
		require.NoError(t, err)
		require.NoError(t, content.Close())
		return version
	}
	for _, size := range []int{10, 20 << 20} {
		for name, source := range map[string]func(content []byte) io.Reader{
			"known":   func(content []byte) io.Reader { return sized{bytes.NewReader(content)} },
			"unknown": func(content []byte) io.Reader { return io.MultiReader(bytes.NewReader(content)) },
		} {
			t.Run(fmt.Sprintf("%d bytes, size %s", size, name), func(t *testing.T) {
				content := noise(size)
				require.NoError(t, storage.Put(t.Context(), "object", strings.NewReader("first")))
				version := read("object")
				require.NoError(t, storage.PutIf(t.Context(), "object", version, source(content)))
				require.True(t, bytes.Equal(content, get(t, storage, "object")))

				require.ErrorIs(t, storage.PutIf(t.Context(), "object", version, source(noise(size))), pikokms.ErrChanged, "it was replaced")
				require.True(t, bytes.Equal(content, get(t, storage, "object")))

				version = read("object")
				require.NoError(t, storage.Delete(t.Context(), "object"))
				require.ErrorIs(t, storage.PutIf(t.Context(), "object", version, source(content)), pikokms.ErrChanged, "it was deleted")
				_, err := storage.Get(t.Context(), "object")
				require.ErrorIs(t, err, fs.ErrNotExist, "it is not back from the dead")
				require.Empty(t, b.uploads(t))
			})
		}
	}
	_, _, err := storage.GetVersion(t.Context(), "missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// sized is content that states its size, as an encrypted message of known size does.
type sized struct{ *bytes.Reader }

func (s sized) ContentLength() (int64, bool) { return int64(s.Len()), true }

// TestClientsOptionsAreKept has a client that sends no checksums unless they are required, since
// many services like S3 refuse them.
func TestClientsOptionsAreKept(t *testing.T) {
	for _, want := range []aws.RequestChecksumCalculation{aws.RequestChecksumCalculationWhenRequired, aws.RequestChecksumCalculationWhenSupported} {
		for _, size := range []int{10, 20 << 20} {
			for _, known := range []bool{true, false} {
				var seen atomic.Int64
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					for name := range r.Header {
						name = strings.ToLower(name)
						if strings.Contains(name, "checksum") || name == "x-amz-trailer" {
							seen.Add(1)
						}
					}
					w.Header().Set("ETag", `"x"`)
					switch {
					case r.URL.Query().Has("uploads"):
						_, _ = io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
					case r.Method == http.MethodPost:
						_, _ = io.WriteString(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
					}
				}))
				defer server.Close()
				client := s3.New(s3.Options{Region: "eu-west-1", BaseEndpoint: &server.URL, UsePathStyle: true, Credentials: login(), RequestChecksumCalculation: want})
				content := io.MultiReader(bytes.NewReader(noise(size)))
				if known {
					content = sized{bytes.NewReader(noise(size))}
				}
				require.NoError(t, s3storage.New(client, "bucket").Put(t.Context(), "object", content))
				require.Equal(t, want == aws.RequestChecksumCalculationWhenSupported, seen.Load() > 0, "size %d, known %v", size, known)
			}
		}
	}
}

func TestFailedUploadsLeaveNothing(t *testing.T) {
	b := newBucket(t)
	host := newHost(t, s3storage.New(b.client, b.name))
	broken := errors.New("broken")
	for _, size := range []int{1000, 5 << 20, 40 << 20} {
		err := host.Put(t.Context(), "object", io.MultiReader(bytes.NewReader(noise(size)), iotest.ErrReader(broken)))
		require.ErrorIs(t, err, broken)

		ctx, cancel := context.WithCancel(t.Context())
		err = host.Put(ctx, "object", io.MultiReader(bytes.NewReader(noise(size)), cancelling(cancel), bytes.NewReader(noise(20<<20))))
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Empty(t, b.uploads(t))
	_, err := host.Get(t.Context(), "object")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

type cancelling context.CancelFunc

func (c cancelling) Read([]byte) (int, error) { c(); return 0, io.EOF }

func TestOpen(t *testing.T) {
	b := newBucket(t)
	storage := s3storage.New(b.client, b.name)
	host := newHost(t, storage)
	content := noise(20 << 20)
	require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(content)))

	b.reset()
	o, err := host.Open(t.Context(), "object")
	require.NoError(t, err)
	require.EqualValues(t, len(content), o.Size())
	require.False(t, o.ModTime().IsZero())
	require.Equal(t, 2, b.made["GET"], "the header, and the final frame")
	b.reset()
	p := make([]byte, 1<<20)
	_, err = o.ReadAt(p, 7_000_000)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content[7_000_000:][:len(p)], p))
	require.LessOrEqual(t, b.made["GET"], 4)
	require.LessOrEqual(t, b.read, int64(len(p)+3*(header.DefaultFrameLength+frame.RegularOverhead)))
	got, err := io.ReadAll(o)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))

	require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(noise(20<<20))))
	_, err = o.ReadAt(p, 3_000_000)
	require.ErrorIs(t, err, pikokms.ErrChanged)
	require.NoError(t, o.Close())

	require.NoError(t, storage.Put(t.Context(), "empty", strings.NewReader("")))
	empty, err := storage.Open(t.Context(), "empty")
	require.NoError(t, err)
	require.Zero(t, empty.Size())
	n, err := empty.ReadAt(p, 0)
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
	require.NoError(t, empty.Close())
	_, err = storage.Open(t.Context(), "missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestStorage(t *testing.T) {
	b := newBucket(t)
	storage := s3storage.New(b.client, b.name)
	objects := map[string]string{
		"a": "first", "folder/b": "second", "folder/with space+plus?question#hash%25": "third", "folder/ü/日本": "fourth",
		"folder/tab\tand": "fifth",
	}
	for key, content := range objects {
		require.NoError(t, storage.Put(t.Context(), key, strings.NewReader(content)))
	}
	list := func(prefix string) (keys []string) {
		for key, err := range storage.List(t.Context(), prefix) {
			require.NoError(t, err)
			keys = append(keys, key)
		}
		return keys
	}
	require.Equal(t, slices.Sorted(maps.Keys(objects)), list(""))
	require.Len(t, list("folder/"), 4)
	for key, content := range objects {
		require.Equal(t, content, string(get(t, storage, key)))
		require.NoError(t, storage.Delete(t.Context(), key))
		require.ErrorIs(t, storage.Delete(t.Context(), key), fs.ErrNotExist)
		_, err := storage.Get(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.Empty(t, list(""))

	nowhere := s3storage.New(b.client, "no-such-bucket-"+b.name)
	_, err := nowhere.Get(t.Context(), "a")
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrNotExist, "it is the bucket that is missing")
	for _, err := range nowhere.List(t.Context(), "") {
		require.Error(t, err)
	}
}

func TestListPages(t *testing.T) {
	b := newBucket(t)
	storage := s3storage.New(b.client, b.name)
	var puts sync.WaitGroup
	failures := make(chan error, 1010)
	for worker := range 10 {
		puts.Go(func() {
			for i := range 101 {
				failures <- storage.Put(t.Context(), fmt.Sprintf("%d/%d", worker, i), strings.NewReader("x"))
			}
		})
	}
	puts.Wait()
	for range cap(failures) {
		require.NoError(t, <-failures)
	}
	n := 0
	for _, err := range storage.List(t.Context(), "") {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 1010, n)
}

func TestNoGoroutineIsLeftBehind(t *testing.T) {
	b := newBucket(t)
	b.CloseIdleConnections()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	host := newHost(t, s3storage.New(b.client, b.name))
	require.NoError(t, host.Put(t.Context(), "object", bytes.NewReader(noise(30<<20))))
	require.Error(t, host.Put(t.Context(), "object", io.MultiReader(bytes.NewReader(noise(30<<20)), iotest.ErrReader(errors.New("broken")))))
	r, err := host.Get(t.Context(), "object")
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, r, 5<<20)
	require.NoError(t, errors.Join(err, r.Close()))
	o, err := host.Open(t.Context(), "object")
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, o, 5<<20)
	require.NoError(t, errors.Join(err, o.Close()))
	b.CloseIdleConnections()
}
