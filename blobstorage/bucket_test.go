package blobstorage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/blob/drivertest"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"
	_ "gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/transfer"
)

// frameOverhead is how many bytes a frame has beside its content.
const frameOverhead = 32

func TestMain(m *testing.M) {
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"} {
		os.Unsetenv(name) // as the machine is configured
	}
	os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	os.Setenv("AWS_ACCESS_KEY_ID", emulator.Credentials)
	os.Setenv("AWS_SECRET_ACCESS_KEY", emulator.Credentials)
	os.Exit(m.Run())
}

// underKey are the options of a host under a local key.
func underKey(t testing.TB, more ...pikokms.Option) []pikokms.Option {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	return append([]pikokms.Option{pikokms.WithCryptoProvider("local", p), pikokms.WithDefaultCryptoProvider("local")}, more...)
}

// harness runs gocloud.dev's conformance suite over an encrypting bucket.
type harness struct {
	t       *testing.T
	open    func() (*blob.Bucket, error)
	options []pikokms.Option
}

func (h *harness) MakeDriver(context.Context) (driver.Bucket, error) {
	inner, err := h.open()
	if err != nil {
		return nil, err
	}
	return newBucket(inner, h.options)
}

func (h *harness) MakeDriverForNonexistentBucket(context.Context) (driver.Bucket, error) {
	return nil, nil
}
func (h *harness) HTTPClient() *http.Client         { return nil }
func (h *harness) SupportsCopy() bool               { return true }
func (h *harness) SupportsNonSlashDelimiters() bool { return true }
func (h *harness) SkipDownloadAt() bool             { return false }
func (h *harness) Close()                           {}

func TestConformance(t *testing.T) {
	// The suite runs without signed URLs to get and to put, which Encrypt's bucket refuses.
	bound := pikokms.BindObjectName("uploads")
	for name, options := range map[string][]pikokms.Option{"plain names": nil, "bound names": {bound}} {
		t.Run("memory, "+name, func(t *testing.T) {
			drivertest.RunConformanceTests(t, func(_ context.Context, t *testing.T) (drivertest.Harness, error) {
				shared := memblob.OpenBucket(nil)
				return &harness{t, func() (*blob.Bucket, error) { return blob.PrefixedBucket(shared, "p/"), nil }, underKey(t, options...)}, nil
			}, nil)
		})
	}
	t.Run("files", func(t *testing.T) {
		drivertest.RunConformanceTests(t, func(_ context.Context, t *testing.T) (drivertest.Harness, error) {
			dir := t.TempDir()
			return &harness{t, func() (*blob.Bucket, error) { return fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true}) }, underKey(t)}, nil
		}, nil)
	})
	t.Run("S3", func(t *testing.T) {
		u := newS3(t)
		drivertest.RunConformanceTests(t, func(ctx context.Context, t *testing.T) (drivertest.Harness, error) {
			prefix := rand.Text() + "/"
			return &harness{t, func() (*blob.Bucket, error) {
				inner, err := blob.OpenBucket(ctx, u)
				if err != nil {
					return nil, err
				}
				return blob.PrefixedBucket(inner, prefix), nil
			}, underKey(t)}, nil
		}, nil)
	})
}

// newS3 returns the URL of a new bucket of LocalStack.
func newS3(t *testing.T) string {
	t.Helper()
	endpoint := emulator.LocalStack(t)
	name := "b-" + strings.ToLower(rand.Text())
	client := s3.New(s3.Options{
		Region: emulator.Region, BaseEndpoint: &endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket:                    &name,
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: emulator.Region},
	})
	require.NoError(t, err)
	return "s3://" + name + "?" + url.Values{"region": {emulator.Region}, "endpoint": {endpoint}, "use_path_style": {"true"}}.Encode()
}

// TestS3UnderKMS opens a bucket of S3 by its URL, under a key of KMS.
func TestS3UnderKMS(t *testing.T) {
	u := newS3(t)
	endpoint := emulator.LocalStack(t)
	keys := kms.New(kms.Options{
		Region: emulator.Region, BaseEndpoint: &endpoint,
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
	key, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: aws.ToString(key.KeyMetadata.KeyId), Client: keys})
	require.NoError(t, err)
	inner, err := blob.OpenBucket(t.Context(), u)
	require.NoError(t, err)
	b, err := Encrypt(inner, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"))
	require.NoError(t, err)
	defer b.Close()
	content := noise(12 << 20)
	require.NoError(t, b.Upload(t.Context(), "video.mp4", bytes.NewReader(content), &blob.WriterOptions{ContentType: "video/mp4"}))
	got, err := b.ReadAll(t.Context(), "video.mp4")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	r, err := b.NewRangeReader(t.Context(), "video.mp4", 5_000_000, 1_000_000, nil)
	require.NoError(t, err)
	require.EqualValues(t, len(content), r.Size())
	got, err = io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	require.True(t, bytes.Equal(content[5_000_000:6_000_000], got))
	attributes, err := b.Attributes(t.Context(), "video.mp4")
	require.NoError(t, err)
	require.EqualValues(t, len(content), attributes.Size)
	require.Equal(t, "video/mp4", attributes.ContentType)
	require.Empty(t, attributes.Metadata)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func TestRangesReadFewBytes(t *testing.T) {
	race.SkipShort(t)
	c, _, b := newMemory(t)
	content := noise(20 << 20)
	require.NoError(t, b.WriteAll(t.Context(), "large", content, nil))

	c.requests.Store(0)
	attributes, err := b.Attributes(t.Context(), "large")
	require.NoError(t, err)
	require.EqualValues(t, len(content), attributes.Size)
	require.EqualValues(t, 1, c.requests.Load(), "attributes take no further request")

	for _, at := range []struct{ offset, length int64 }{{0, 1 << 20}, {3<<20 + 7, 1 << 20}, {19<<20 + 5, -1}, {20 << 20, 10}, {5, 0}} {
		c.requests.Store(0)
		c.bytes.Store(0)
		r, err := b.NewRangeReader(t.Context(), "large", at.offset, at.length, nil)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, errors.Join(err, r.Close()))
		want := content[at.offset:]
		if at.length >= 0 {
			want = want[:min(at.length, int64(len(want)))]
		}
		require.True(t, bytes.Equal(want, got))
		require.EqualValues(t, len(content), r.Size())
		require.LessOrEqual(t, c.requests.Load(), int64(3))
		require.LessOrEqual(t, c.bytes.Load(), int64(len(want))+3*(header.DefaultFrameLength+frameOverhead)+transfer.ProbeSize+1024)
	}

	// A whole object is one stream.
	c.requests.Store(0)
	got, err := b.ReadAll(t.Context(), "large")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	require.EqualValues(t, 1, c.requests.Load())
}

// An object with random access is opened once, whether its size or its content is asked for.
func TestAWholeSeekableObjectIsReadOnce(t *testing.T) {
	race.SkipShort(t)
	c, _, b := newMemory(t, pikokms.WithEnabledTransformers(compress.ZstdSeekable))
	for _, size := range []int{0, 1, 100_000, 20 << 20} {
		content := noise(size)
		require.NoError(t, b.WriteAll(t.Context(), "a", content, nil))
		stored, err := c.inner.Attributes(t.Context(), "a")
		require.NoError(t, err)

		c.requests.Store(0)
		c.bytes.Store(0)
		r, err := b.NewReader(t.Context(), "a", nil)
		require.NoError(t, err)
		require.EqualValues(t, size, r.Size())
		got, err := io.ReadAll(r)
		require.NoError(t, errors.Join(err, r.Close()))
		require.True(t, bytes.Equal(content, got))
		require.LessOrEqual(t, c.requests.Load(), int64(2), "the whole, and its end for the size")
		require.LessOrEqual(t, c.bytes.Load(), stored.Size+2*(header.DefaultFrameLength+frameOverhead))

		c.requests.Store(0)
		attributes, err := b.Attributes(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, size, attributes.Size)
		require.LessOrEqual(t, c.requests.Load(), int64(3), "the attributes, the beginning and the end")
	}
}

func TestSizes(t *testing.T) {
	_, stored, b := newMemory(t, pikokms.AllowPlaintext())
	require.NoError(t, b.WriteAll(t.Context(), "ours", noise(70_000), nil))
	require.NoError(t, stored.WriteAll(t.Context(), "plain", noise(11), nil))
	// The object has none of our metadata, as one of another writer.
	message, err := stored.ReadAll(t.Context(), "ours")
	require.NoError(t, err)
	require.NoError(t, stored.WriteAll(t.Context(), "theirs", message, nil))
	require.NoError(t, stored.WriteAll(t.Context(), "wrong", message, &blob.WriterOptions{Metadata: map[string]string{transfer.HeaderSizeKey: "x"}}))
	want := map[string]int64{"ours": 70_000, "plain": 11, "theirs": 70_000, "wrong": 70_000}
	for key, size := range want {
		a, err := b.Attributes(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, size, a.Size, key)
		r, err := b.NewReader(t.Context(), key, nil)
		require.NoError(t, err)
		require.Equal(t, size, r.Size(), key)
		require.NoError(t, r.Close())
	}
	for _, sizes := range []bool{false, true} {
		options := &blob.ListOptions{}
		if sizes {
			options.BeforeList = WithSizes
		}
		objects := b.List(options)
		for n := 0; ; n++ {
			o, err := objects.Next(t.Context())
			if err == io.EOF {
				require.Equal(t, len(want), n)
				break
			}
			require.NoError(t, err)
			if sizes {
				require.Equal(t, want[o.Key], o.Size)
			} else {
				require.EqualValues(t, -1, o.Size)
			}
		}
	}
}

func TestCompressed(t *testing.T) {
	content := bytes.Repeat([]byte("a stored object, "), 200_000)
	for _, format := range compress.Formats() {
		_, stored, b := newMemory(t, pikokms.WithEnabledTransformers(format))
		require.NoError(t, b.WriteAll(t.Context(), "text", content, nil))
		a, err := stored.Attributes(t.Context(), "text")
		require.NoError(t, err)
		require.Less(t, a.Size, int64(len(content)/10), format)
		got, err := b.ReadAll(t.Context(), "text")
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
		r, err := b.NewRangeReader(t.Context(), "text", 1_000_000, 100, nil)
		if format == compress.ZstdSeekable {
			require.NoError(t, err)
			require.NoError(t, iotest.TestReader(r, content[1_000_000:1_000_100]))
			require.NoError(t, r.Close())
			continue
		}
		require.ErrorIs(t, err, pikokms.ErrNotSeekable, format)
		require.Equal(t, gcerrors.Unimplemented, gcerrors.Code(err))
	}
}

func TestRefusals(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, stored, b := newMemory(t)
	require.NoError(t, b.WriteAll(t.Context(), "a", noise(100_000), nil))
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		_, err := b.SignedURL(t.Context(), "a", &blob.SignedURLOptions{Method: method})
		require.ErrorIs(t, err, ErrSignedURL)
		require.Equal(t, gcerrors.Unimplemented, gcerrors.Code(err))
	}
	err := b.WriteAll(t.Context(), "b", nil, &blob.WriterOptions{Metadata: map[string]string{transfer.HeaderSizeKey: "1"}})
	require.ErrorIs(t, err, errReservedMetadata)
	require.NoError(t, stored.WriteAll(t.Context(), "plain", []byte("plain"), nil))
	_, err = b.ReadAll(t.Context(), "plain")
	require.ErrorIs(t, err, pikokms.ErrPlaintext)
	_, err = b.NewRangeReader(t.Context(), "plain", 0, 1, nil)
	require.ErrorIs(t, err, pikokms.ErrPlaintext)

	message, err := stored.ReadAll(t.Context(), "a")
	require.NoError(t, err)
	message[50_000] ^= 1
	require.NoError(t, stored.WriteAll(t.Context(), "changed", message, nil))
	_, err = b.ReadAll(t.Context(), "changed")
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	require.NoError(t, stored.WriteAll(t.Context(), "cut", message[:70_000], nil))
	_, err = b.NewRangeReader(t.Context(), "cut", 0, 1, nil)
	require.Error(t, err)

	// A source that fails leaves nothing behind.
	err = b.Upload(t.Context(), "failed", io.MultiReader(bytes.NewReader(noise(200_000)), iotest.ErrReader(errors.New("no more"))), &blob.WriterOptions{ContentType: "a/b"})
	require.ErrorContains(t, err, "no more")
	ctx, cancel := context.WithCancel(t.Context())
	w, err := b.NewWriter(ctx, "cancelled", &blob.WriterOptions{ContentType: "a/b"})
	require.NoError(t, err)
	_, err = w.Write(noise(200_000))
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, w.Close(), context.Canceled)
	for _, key := range []string{"failed", "cancelled"} {
		exists, err := stored.Exists(t.Context(), key)
		require.NoError(t, err)
		require.False(t, exists, key)
	}

	_, err = Encrypt(stored)
	require.ErrorIs(t, err, pikokms.ErrConfig)
	_, err = Encrypt(nil, underKey(t)...)
	require.ErrorIs(t, err, pikokms.ErrConfig)
}

// TestBoundNames binds objects to their names. Copies can be read, but objects that someone moved
// within the storage cannot.
func TestBoundNames(t *testing.T) {
	_, stored, b := newMemory(t, pikokms.BindObjectName("uploads"))
	require.NoError(t, b.WriteAll(t.Context(), "a", []byte("text"), &blob.WriterOptions{Metadata: map[string]string{"k": "v"}}))
	require.NoError(t, b.Copy(t.Context(), "b", "a", nil))
	got, err := b.ReadAll(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, "text", string(got))
	attributes, err := b.Attributes(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"k": "v"}, attributes.Metadata)
	require.NoError(t, stored.Copy(t.Context(), "c", "a", nil))
	_, err = b.ReadAll(t.Context(), "c")
	require.ErrorIs(t, err, provider.ErrContextMismatch)
}

// TestStorage uses a bucket as the storage of a host.
func TestStorage(t *testing.T) {
	stored := memblob.OpenBucket(nil)
	defer stored.Close()
	host, err := pikokms.New(underKey(t, pikokms.WithStorage(New(stored, nil)))...)
	require.NoError(t, err)
	content := noise(300_000)
	require.NoError(t, host.Put(t.Context(), "a/b", bytes.NewReader(content)))
	object, err := host.Open(t.Context(), "a/b")
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(object, content))
	require.NoError(t, object.Close())
	for key, err := range host.List(t.Context(), "a/") {
		require.NoError(t, err)
		require.Equal(t, "a/b", key)
	}
	require.ErrorContains(t, host.Put(t.Context(), "failed", iotest.ErrReader(errors.New("no more"))), "no more")
	require.NoError(t, host.Delete(t.Context(), "a/b"))
	_, err = host.Get(t.Context(), "a/b")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = host.Open(t.Context(), "a/b")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, host.Delete(t.Context(), "a/b"), os.ErrNotExist)
}
