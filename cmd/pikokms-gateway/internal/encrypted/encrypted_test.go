package encrypted_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// behind is the folder of all tests: the engine changes the working folder to it.
var behind backend.Backend

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "gateway-")
	buckets := filepath.Join(folder, "buckets") // a test also looks at what is beside it
	if err == nil {
		err = os.Mkdir(buckets, 0o700)
	}
	if err == nil {
		options := encrypted.FolderOptions()
		options.CopyObjectThreshold = 5 << 30 // as S3 has it
		behind, err = posix.New(buckets, meta.XattrMeta{}, options)
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// keyService is a local key that counts its calls, and can be down.
type keyService struct {
	provider.Keyring
	generated, unwrapped atomic.Int64
	down                 atomic.Bool
}

func newKeyService(t testing.TB) *keyService {
	t.Helper()
	key, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	return &keyService{Keyring: key}
}

func (k *keyService) GenerateDataKey(ctx context.Context, pairs map[string]string) (*provider.DataKey, error) {
	if k.generated.Add(1); k.down.Load() {
		return nil, provider.ErrProviderUnavailable
	}
	return k.Keyring.GenerateDataKey(ctx, pairs)
}

func (k *keyService) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if k.unwrapped.Add(1); k.down.Load() {
		return nil, provider.ErrProviderUnavailable
	}
	return k.Keyring.UnwrapDataKey(ctx, request)
}

// bucket is a bucket of a gateway.
type bucket struct {
	*encrypted.Backend
	t    testing.TB
	name string
	keys *keyService
}

// newBucket makes a bucket in inner.
func newBucket(t testing.TB, inner backend.Backend, options ...pikokms.Option) *bucket {
	t.Helper()
	keys := newKeyService(t)
	name := "b" + strings.ToLower(rand.Text())
	require.NoError(t, os.Mkdir(name, 0o700))
	return &bucket{newBackend(t, inner, keys, options...), t, name, keys}
}

func newBackend(t testing.TB, inner backend.Backend, keys *keyService, options ...pikokms.Option) *encrypted.Backend {
	t.Helper()
	key, err := encrypted.NewKey(message.Encrypter{Keyring: keys}, message.Decrypter{Keyrings: []provider.Unwrapper{keys}}, options...)
	require.NoError(t, err)
	return encrypted.New(inner, encrypted.Config{Keys: func(string, string) (*encrypted.Key, error) { return key, nil }})
}

func (b *bucket) put(key string, content []byte) (s3response.PutObjectOutput, error) {
	size := int64(len(content))
	return b.PutObject(b.t.Context(), s3response.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(content), ContentLength: &size})
}

func (b *bucket) get(key, byteRange string) ([]byte, error) {
	out, err := b.GetObject(b.t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: &key, Range: &byteRange})
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(out.Body)
	return content, errors.Join(err, out.Body.Close())
}

// list returns the keys of all pages of a listing, which have so many objects each.
func (b *bucket) list(most int32) (keys []string) {
	in := &s3.ListObjectsV2Input{Bucket: &b.name, MaxKeys: &most, ContinuationToken: aws.String(""), StartAfter: aws.String(""), Prefix: aws.String(""), Delimiter: aws.String("")}
	for {
		page, err := b.ListObjectsV2(b.t.Context(), in)
		require.NoError(b.t, err)
		require.LessOrEqual(b.t, len(page.Contents), int(most))
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
		if !aws.ToBool(page.IsTruncated) {
			return keys
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// files returns the objects of the bucket behind, by their paths.
func (b *bucket) files() map[string][]byte {
	all := make(map[string][]byte)
	require.NoError(b.t, filepath.WalkDir(b.name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, posix.MetaTmpDir) {
			return err
		}
		all[strings.TrimPrefix(path, b.name+"/")], err = os.ReadFile(path)
		return err
	}))
	return all
}

func code(err error) string {
	own, ok := errors.AsType[s3err.S3Error](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return own.BaseError().Code
}

// random returns n random bytes, which do not begin as a message does.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	if n > 0 {
		b[0] |= 0x80
	}
	return b
}

func TestObjectsAreMessages(t *testing.T) {
	for _, bind := range []bool{false, true} {
		for _, n := range []int{0, 1, 100, 4000, 65_536, 65_537, 1 << 20} {
			var options []pikokms.Option
			if bind {
				options = append(options, pikokms.BindObjectName("name"))
			}
			b := newBucket(t, behind, options...)
			content := random(n)
			put, err := b.put("a/b", content)
			require.NoError(t, err)
			require.EqualValues(t, n, *put.Size)
			require.EqualValues(t, 1, b.keys.generated.Load())

			stored := b.files()["a/b"]
			host, err := pikokms.New(append(options, pikokms.WithCryptoProvider("k", provider.EncryptionProvider(mustLocal(t))))...)
			require.NoError(t, err)
			opened, size, err := host.DecryptObject(t.Context(), "a/b", bytes.NewReader(stored), int64(len(stored)), nil)
			require.NoError(t, err)
			require.EqualValues(t, n, size)
			whole, err := io.ReadAll(opened)
			require.NoError(t, err)
			require.Equal(t, content, whole)

			whole, err = b.get("a/b", "")
			require.NoError(t, err)
			require.Equal(t, content, whole)
			if n > 10 {
				part, err := b.get("a/b", fmt.Sprintf("bytes=%d-%d", n/2, n/2+4))
				require.NoError(t, err)
				require.Equal(t, content[n/2:n/2+5], part)
			}
			if bind {
				require.NoError(t, os.Rename(filepath.Join(b.name, "a/b"), filepath.Join(b.name, "a/c")))
				_, err = b.get("a/c", "")
				require.Equal(t, "InvalidObjectState", code(err))
			}
		}
	}
}

func mustLocal(t testing.TB) provider.Provider {
	t.Helper()
	key, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	return key
}

// TestNothingIsServedUnverified changes and cuts what is stored. Clients get an error, or less than
// was announced. They never get anything else, nor all that is left of a cut object.
func TestNothingIsServedUnverified(t *testing.T) {
	b := newBucket(t, behind)
	content := random(3*65_536 + 500)
	_, err := b.put("a", content)
	require.NoError(t, err)
	path := filepath.Join(b.name, "a")
	stored, err := os.ReadFile(path)
	require.NoError(t, err)
	frame := 65_536 + 32
	body := len(stored) - 3*frame - (500 + 40)

	try := func(what string, changed []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, changed, 0o600))
		for _, byteRange := range []string{"", "bytes=0-", "bytes=-10"} {
			out, err := b.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("a"), Range: &byteRange})
			if err != nil {
				continue
			}
			var whole bytes.Buffer
			_, err = out.Body.(io.WriterTo).WriteTo(&whole)
			got := whole.Bytes()
			require.LessOrEqual(t, int64(len(got)), *out.ContentLength, what)
			if int64(len(got)) == *out.ContentLength {
				require.NoError(t, err, what)
				start := 0
				if byteRange == "bytes=-10" {
					start = len(content) - 10
				}
				require.Equal(t, content[start:], got, "%s: %q gives something else", what, byteRange)
			}
			require.NoError(t, out.Body.Close())
		}
	}
	for _, at := range []int{0, 1, 50, body, body + 100, body + frame, body + 2*frame + 7, len(stored) - 600, len(stored) - 1} {
		changed := slices.Clone(stored)
		changed[at] ^= 1
		try(fmt.Sprintf("byte %d", at), changed)
	}
	for _, at := range []int{0, 10, body, body + frame, body + 2*frame, body + 3*frame, len(stored) - 1} {
		try(fmt.Sprintf("cut at %d", at), stored[:at])
	}
	try("longer", append(slices.Clone(stored), 0))
	try("frames swapped", slices.Concat(stored[:body], stored[body+frame:body+2*frame], stored[body:body+frame], stored[body+2*frame:]))

	// A message that is cut at a frame has the size of a shorter message, so only its end shows the
	// cut.
	require.NoError(t, os.WriteFile(path, stored[:body+2*frame], 0o600))
	out, err := b.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("a"), Range: aws.String("")})
	require.NoError(t, err)
	got, err := io.ReadAll(out.Body)
	require.Error(t, err)
	require.Less(t, int64(len(got)), *out.ContentLength)
	require.NoError(t, out.Body.Close())
	out, err = b.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("a"), Range: aws.String("")})
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, out.Body)
	require.Error(t, err)
	require.Less(t, n, *out.ContentLength)
	require.NoError(t, out.Body.Close())

	require.NoError(t, os.WriteFile(path, []byte("plain text that somebody put there"), 0o600))
	_, err = b.get("a", "")
	require.Equal(t, "InvalidObjectState", code(err))
}

func TestKeyServiceIsDown(t *testing.T) {
	b := newBucket(t, behind)
	_, err := b.put("a", []byte("old"))
	require.NoError(t, err)
	before := b.files()

	b.keys.down.Store(true)
	_, err = b.put("a", []byte("new"))
	require.Equal(t, "ServiceUnavailable", code(err))
	_, err = b.CreateMultipartUpload(t.Context(), s3response.CreateMultipartUploadInput{Bucket: &b.name, Key: aws.String("b")})
	require.Equal(t, "ServiceUnavailable", code(err))
	_, err = b.get("a", "")
	require.Equal(t, "ServiceUnavailable", code(err))
	_, err = b.get("a", "bytes=0-1")
	require.Equal(t, "ServiceUnavailable", code(err))
	require.Equal(t, before, b.files())

	head, err := b.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("a")})
	require.NoError(t, err, "a size needs no key")
	require.EqualValues(t, 3, *head.ContentLength)
	require.Equal(t, []string{"a"}, b.list(10))

	b.keys.down.Store(false)
	content, err := b.get("a", "")
	require.NoError(t, err)
	require.Equal(t, "old", string(content))
}

func TestRequestsThatAreNotWhole(t *testing.T) {
	b := newBucket(t, behind)
	put := func(body string, size int64, change func(*s3response.PutObjectInput)) error {
		in := s3response.PutObjectInput{Bucket: &b.name, Key: aws.String("a"), Body: strings.NewReader(body), ContentLength: &size}
		if change != nil {
			change(&in)
		}
		_, err := b.PutObject(t.Context(), in)
		return err
	}
	require.Equal(t, "IncompleteBody", code(put("short", 6, nil)))
	require.Equal(t, "IncompleteBody", code(put("longer", 5, nil)))
	require.Equal(t, "InvalidArgument", code(put("negative", -1, nil)))
	require.Equal(t, "BadDigest", code(put("hello", 5, func(in *s3response.PutObjectInput) { in.ChecksumCRC32 = aws.String("AAAAAA==") })))
	require.Equal(t, "BadDigest", code(put("hello", 5, func(in *s3response.PutObjectInput) { in.ChecksumCRC64NVME = aws.String("AAAAAAAAAAA=") })))
	require.Equal(t, "BadDigest", code(put("hello", 5, func(in *s3response.PutObjectInput) {
		in.ChecksumSHA256 = aws.String("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
	})))
	require.Equal(t, "InvalidArgument", code(put("hello", 5, func(in *s3response.PutObjectInput) {
		in.Metadata = map[string]string{"Pikokms-Header-Size": "1"}
	})))
	require.Empty(t, b.files())
	// The check value of CRC-64/NVME (catalogue of parametrised CRC algorithms): 0xae8b14860a799888.
	require.NoError(t, put("123456789", 9, func(in *s3response.PutObjectInput) { in.ChecksumCRC64NVME = aws.String("rosUhgp5mIg=") }))
}

// refused are the requests that the gateway refuses, and their errors.
func TestRefused(t *testing.T) {
	b := newBucket(t, behind)
	ctx, own := t.Context(), aws.String(".pikokms/uploads/x/upload")
	_, err := b.put("dir/with-data/", []byte("x"))
	require.Equal(t, "DirectoryObjectContainsData", code(err), "of a folder behind")
	_, err = b.put(*own, []byte("x"))
	require.Equal(t, "AccessDenied", code(err))
	for _, key := range []string{*own, ".pikokms/", ".pikokms", "/.pikokms/x", "./.pikokms/x", "a/../.pikokms/x"} {
		_, err = b.get(key, "")
		require.Equal(t, "AccessDenied", code(err), key)
	}
	_, err = b.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: own})
	require.Equal(t, "AccessDenied", code(err))
	_, err = b.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: own})
	require.Equal(t, "AccessDenied", code(err))
	out, err := b.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &b.name, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: own}}}})
	require.NoError(t, err)
	require.Equal(t, "AccessDenied", *out.Error[0].Code)
	_, err = b.CopyObject(ctx, s3response.CopyObjectInput{Bucket: &b.name, Key: aws.String("a"), CopySource: aws.String(b.name + "/" + *own)})
	require.Equal(t, "AccessDenied", code(err))
	_, err = b.GetObjectTagging(ctx, b.name, *own, "")
	require.Equal(t, "AccessDenied", code(err))
	require.Equal(t, "NotImplemented", code(b.RestoreObject(ctx, &s3.RestoreObjectInput{
		Bucket: &b.name, Key: aws.String("a"), RestoreRequest: &types.RestoreRequest{Type: types.RestoreRequestTypeSelect},
	})))
	require.Empty(t, b.files())
}

func TestListingHidesTheGatewaysOwn(t *testing.T) {
	b := newBucket(t, behind)
	want := []string{"!first", ".a", ".pikokms0", ".pikoz", "a", "b/c", "z"}
	for i, key := range want {
		_, err := b.put(key, make([]byte, 100*i))
		require.NoError(t, err)
	}
	up := begin(b, "object")
	up.upload(2, random(10))
	for most := int32(1); most < 12; most++ {
		require.Equal(t, want, b.list(most), "%d at a time", most)
	}
	page, err := b.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{
		Bucket: &b.name, MaxKeys: aws.Int32(100), ContinuationToken: aws.String(""), StartAfter: aws.String(""), Prefix: aws.String(""), Delimiter: aws.String("/"),
	})
	require.NoError(t, err)
	require.Len(t, page.CommonPrefixes, 1)
	for i, o := range page.Contents {
		if *o.Key != "z" {
			require.EqualValues(t, 100*i, *o.Size)
		}
	}
	require.Equal(t, "BucketNotEmpty", code(b.DeleteBucket(t.Context(), b.name)))
	for _, key := range want {
		_, err := b.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
		require.NoError(t, err)
	}
	require.NoError(t, b.DeleteBucket(t.Context(), b.name), "uploads that are not completed are no objects")
}

// header returns the header of a stored message.
func headerOf(t testing.TB, stored []byte) *header.Header {
	t.Helper()
	h, _, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	return h
}
