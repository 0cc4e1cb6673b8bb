package encrypted_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// TestKeysStayInTheirBucket uses keys that lead out of the bucket. The engine checks only the keys
// in URLs.
func TestKeysStayInTheirBucket(t *testing.T) {
	b, other := newBucket(t, behind), newBucket(t, behind)
	_, err := other.put("a", []byte("of another bucket"))
	require.NoError(t, err)
	outside := filepath.Join("..", filepath.Base(t.TempDir())+"-outside")
	require.NoError(t, os.WriteFile(outside, []byte("of another program"), 0o600))
	defer os.Remove(outside)

	require.NoError(t, os.Mkdir("bucket", 0o700))
	defer os.RemoveAll("bucket")
	require.NoError(t, os.WriteFile(filepath.Join("bucket", "a"), []byte("of a bucket of this name"), 0o600))

	for _, key := range []string{"../bucket/a", "x/../../bucket/a", "../" + other.name + "/a", "/../" + other.name + "/a", "x/../../" + other.name + "/a", "../" + other.name, "../" + outside, "..", ".", "/", "x/.."} {
		out, err := b.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: &b.name, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: &key}}}})
		require.NoError(t, err)
		require.Len(t, out.Error, 1, key)
		require.Empty(t, out.Deleted, key)
		_, err = b.put(key, []byte("x"))
		require.Equal(t, "InvalidArgument", code(err), key)
		_, err = b.get(key, "")
		require.Equal(t, "InvalidArgument", code(err), key)
		_, err = b.CopyObject(t.Context(), s3response.CopyObjectInput{Bucket: &b.name, Key: aws.String("copy"), CopySource: aws.String(b.name + "/" + key)})
		require.Equal(t, "InvalidArgument", code(err), key)
	}
	require.FileExists(t, outside)
	require.FileExists(t, filepath.Join("bucket", "a"))
	require.Len(t, other.files(), 1)
	require.DirExists(t, b.name)
}

// TestPartsOfAnObjectAreAllOfIt changes the sizes of parts in the metadata, which nothing
// authenticates. A client that reads by part numbers must not take a part of the object for all.
func TestPartsOfAnObjectAreAllOfIt(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a")
	u.upload(1, random(fiveMiB))
	u.upload(2, []byte("the end"))
	_, err := u.complete()
	require.NoError(t, err)
	stored, err := meta.XattrMeta{}.RetrieveAttribute(nil, b.name, "a", "metadata")
	require.NoError(t, err)
	changed := bytes.Replace(stored, []byte("5242880,7"), []byte("5242880"), 1)
	require.NotEqual(t, stored, changed)
	require.NoError(t, meta.XattrMeta{}.StoreAttribute(nil, b.name, "a", "metadata", changed))
	_, err = b.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: &u.key, PartNumber: aws.Int32(1)})
	require.Equal(t, "InvalidObjectState", code(err))
	_, err = b.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: &u.key, PartNumber: aws.Int32(1)})
	require.Equal(t, "InvalidObjectState", code(err))
}

// TestRecordsAreNeverPlain replaces the record of an upload by a plain one, whose secret is known.
// A gateway that serves plain objects for a while must refuse it nevertheless: the secret seals
// checksums.
func TestRecordsAreNeverPlain(t *testing.T) {
	b := newBucket(t, behind, pikokms.AllowPlaintext())
	u := begin(b, "a")
	record, err := json.Marshal(map[string]any{"ID": u.id, "Bucket": b.name, "Key": "a", "Secret": make([]byte, 32)})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.name, ".pikokms/uploads", u.id, "upload"), record, 0o600))
	b.Backend = newBackend(t, behind, b.keys, pikokms.AllowPlaintext())
	_, err = u.send(1, []byte("x"))
	require.Equal(t, "InvalidObjectState", code(err))
}

// TestCompletedAtTheSameTime checks that each answer has the strings of its own request. The engine
// uses the memory of a request's strings again once it is answered.
func TestCompletedAtTheSameTime(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a")
	u.upload(1, random(fiveMiB))
	u.upload(2, random(fiveMiB))
	var requests sync.WaitGroup
	for range 8 {
		requests.Go(func() {
			in := &s3.CompleteMultipartUploadInput{
				Bucket: aws.String(b.name), Key: aws.String(u.key), UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
			}
			out, _, err := b.CompleteMultipartUpload(t.Context(), in)
			if err != nil || out.Bucket != in.Bucket || out.Key != in.Key {
				t.Errorf("%v, or the answer has the strings of another request", err)
			}
		})
	}
	requests.Wait()
}

// newTenants returns gateways on one bucket, each with the key of one prefix.
func newTenants(t *testing.T, b *bucket, prefixes ...string) (tenants []*bucket) {
	for _, prefix := range prefixes {
		key, err := encrypted.NewKey(message.Encrypter{Keyring: b.keys}, message.Decrypter{Keyrings: []provider.Unwrapper{b.keys}})
		require.NoError(t, err)
		gateway := encrypted.New(behind, encrypted.Config{Keys: func(_, name string) (*encrypted.Key, error) {
			if !strings.HasPrefix(name, prefix) {
				return nil, nil
			}
			return key, nil
		}})
		tenants = append(tenants, &bucket{gateway, t, b.name, b.keys})
	}
	return tenants
}

// TestPlacesWithoutAKey uses one bucket with a gateway for each of two tenants.
func TestPlacesWithoutAKey(t *testing.T) {
	tenants := newTenants(t, newBucket(t, behind), "a/", "b/")
	a, b := tenants[0], tenants[1]
	_, err := a.put("a/x", []byte("12345"))
	require.NoError(t, err)
	_, err = b.put("b/x", []byte("12345"))
	require.NoError(t, err)
	ofA, ofB := begin(a, "a/up"), begin(b, "b/up")

	listed, err := a.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &a.name, MaxUploads: aws.Int32(10)})
	require.NoError(t, err)
	require.Len(t, listed.Uploads, 1)
	require.Equal(t, ofA.id, listed.Uploads[0].UploadID)
	require.Equal(t, []string{"a/x", "b/x"}, a.list(10))

	_, err = a.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &a.name, Key: aws.String("b/x")})
	require.Equal(t, "AccessDenied", code(err))
	deleted, err := a.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: &a.name, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: aws.String("b/x")}, {Key: aws.String("a/../b/x")}}}})
	require.NoError(t, err)
	require.Len(t, deleted.Error, 2)
	require.Equal(t, "AccessDenied", code(a.PutObjectTagging(t.Context(), a.name, "b/x", "", map[string]string{"a": "b"})))
	_, err = a.GetObjectTagging(t.Context(), a.name, "b/x", "")
	require.Equal(t, "AccessDenied", code(err))
	err = a.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: &a.name, Key: &ofB.key, UploadId: &ofB.id})
	require.Equal(t, "AccessDenied", code(err))
	content, err := b.get("b/x", "")
	require.NoError(t, err)
	require.Equal(t, "12345", string(content))
	_, err = a.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &a.name, Key: aws.String("a/x")})
	require.NoError(t, err)

	// If a key service is down, nothing is left out silently.
	a = newTenants(t, a, "a/")[0]
	a.keys.down.Store(true)
	_, err = a.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &a.name, MaxUploads: aws.Int32(10)})
	require.Equal(t, "ServiceUnavailable", code(err))
	_, ok := errors.AsType[s3err.S3Error](err)
	require.True(t, ok)
}

// TestObjectsOfOtherPrograms reads objects that were not stored for a place with pairs. They are
// refused, and the error says what is missing.
func TestObjectsOfOtherPrograms(t *testing.T) {
	b := newBucket(t, behind)
	key, err := encrypted.NewKey(message.Encrypter{Keyring: b.keys}, message.Decrypter{Keyrings: []provider.Unwrapper{b.keys}})
	require.NoError(t, err)
	place := &bucket{encrypted.New(behind, encrypted.Config{Keys: func(string, string) (*encrypted.Key, error) {
		return key.With(map[string]string{"tenant": "a"}), nil
	}}), t, b.name, b.keys}
	refused := func(name, want string) {
		t.Helper()
		for _, byteRange := range []string{"", "bytes=0-1"} {
			_, err := place.get(name, byteRange)
			require.Equal(t, "InvalidObjectState", code(err))
			own, _ := errors.AsType[s3err.S3Error](err)
			require.Contains(t, own.BaseError().Description, want)
		}
	}
	_, err = b.put("no-pair", []byte("content"))
	require.NoError(t, err)
	refused("no-pair", "without the pairs of its place")

	e := message.Encrypter{Keyring: b.keys}
	foreign, err := e.Encrypt(t.Context(), []byte("content"), map[string]string{"tenant": "a"})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.name, "foreign"), foreign, 0o600))
	refused("foreign", "another program wrote it")

	host, err := pikokms.New(pikokms.WithMessages(e, message.Decrypter{Keyrings: []provider.Unwrapper{b.keys}}))
	require.NoError(t, err)
	r, err := host.EncryptObject(t.Context(), "host", strings.NewReader("content"), map[string]string{"tenant": "a"})
	require.NoError(t, err)
	stored, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(b.name, "host"), stored, 0o600))
	content, err := place.get("host", "")
	require.NoError(t, err)
	require.Equal(t, "content", string(content))
}

// counting is a backend, not a folder, that counts the bytes of parts that are in memory.
type counting struct {
	backend.Backend
	now, most atomic.Int64
}

func (c *counting) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	now := c.now.Add(*in.ContentLength)
	defer c.now.Add(-*in.ContentLength)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	time.Sleep(4 * time.Second)
	return c.Backend.UploadPart(ctx, in)
}

// TestJoiningTakesBoundedMemory joins large objects at the same time.
func TestJoiningTakesBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 1.2 GB; skipped in short mode")
	}
	c := &counting{Backend: behind}
	b := newBucket(t, c)
	content := random(80 << 20)
	var requests sync.WaitGroup
	for i := range 6 {
		u := begin(b, fmt.Sprint(i))
		u.upload(1, content)
		requests.Go(func() {
			if _, err := u.complete(); err != nil {
				t.Error(err)
			}
		})
	}
	requests.Wait()
	require.LessOrEqual(t, c.most.Load(), int64(256<<20))
	got, err := b.get("5", "")
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}
