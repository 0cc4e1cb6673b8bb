package encrypted_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/s3response"

	"piko.sh/pikokms/cmd/pikokms-gateway/internal/encrypted"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

const fiveMiB = 5 << 20

// upload is an upload in parts.
type upload struct {
	*bucket
	key, id string
	parts   []types.CompletedPart
}

func begin(b *bucket, key string) *upload {
	b.t.Helper()
	out, err := b.CreateMultipartUpload(b.t.Context(), s3response.CreateMultipartUploadInput{
		Bucket: &b.name, Key: &key, ContentType: aws.String("text/x-test"), Metadata: map[string]string{"colour": "blue"}, Tagging: aws.String("a=b"),
	})
	require.NoError(b.t, err)
	return &upload{b, key, out.UploadId, nil}
}

func (u *upload) send(number int32, content []byte) (types.CompletedPart, error) {
	size := int64(len(content))
	out, err := u.UploadPart(u.t.Context(), &s3.UploadPartInput{Bucket: &u.name, Key: &u.key, UploadId: &u.id, PartNumber: &number, Body: bytes.NewReader(content), ContentLength: &size})
	if err != nil {
		return types.CompletedPart{}, err
	}
	return types.CompletedPart{PartNumber: &number, ETag: out.ETag}, nil
}

// upload sends a part, in place of an earlier one of its number.
func (u *upload) upload(number int32, content []byte) {
	u.t.Helper()
	part, err := u.send(number, content)
	require.NoError(u.t, err)
	u.parts = slices.DeleteFunc(u.parts, func(p types.CompletedPart) bool { return *p.PartNumber == number })
	u.parts = append(u.parts, part)
	slices.SortFunc(u.parts, func(x, y types.CompletedPart) int { return int(*x.PartNumber - *y.PartNumber) })
}

func (u *upload) complete() (s3response.CompleteMultipartUploadResult, error) {
	out, _, err := u.CompleteMultipartUpload(u.t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: &u.name, Key: &u.key, UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
	})
	return out, err
}

func (u *upload) abort() error {
	return u.AbortMultipartUpload(u.t.Context(), &s3.AbortMultipartUploadInput{Bucket: &u.name, Key: &u.key, UploadId: &u.id})
}

func TestUploadInParts(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a/b")
	one, two, three := random(fiveMiB), random(fiveMiB+12_345), []byte("the end")
	u.upload(7, three)
	u.upload(2, random(fiveMiB))
	u.upload(1, one)
	u.upload(2, two) // in place of the other
	require.Empty(t, b.list(100))

	// No two messages share a data key or a message ID, and nothing is plain.
	seen := make(map[string]bool)
	for name, stored := range b.files() {
		require.True(t, strings.HasPrefix(name, ".pikokms/uploads/"+u.id+"/"), name)
		require.NotContains(t, string(stored), "the end")
		if len(stored) == 0 {
			continue
		}
		h := headerOf(t, stored)
		for _, unique := range []string{string(h.MessageID), string(h.EncryptedDataKeys[0].Ciphertext)} {
			require.False(t, seen[unique], "%s shares a key with another", name)
			seen[unique] = true
		}
	}
	require.Len(t, seen, 2*5, "a record and four parts")

	parts, err := b.ListParts(t.Context(), &s3.ListPartsInput{Bucket: &b.name, Key: &u.key, UploadId: &u.id, MaxParts: aws.Int32(2)})
	require.NoError(t, err)
	require.True(t, parts.IsTruncated)
	require.Equal(t, 2, parts.NextPartNumberMarker)
	require.EqualValues(t, len(two), parts.Parts[1].Size)
	require.Equal(t, *u.parts[1].ETag, parts.Parts[1].ETag)
	listed, err := b.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.name, MaxUploads: aws.Int32(10)})
	require.NoError(t, err)
	require.Len(t, listed.Uploads, 1)
	require.Equal(t, "a/b", listed.Uploads[0].Key)

	// Another gateway goes on.
	b.Backend = newBackend(t, behind, b.keys)
	done, err := u.complete()
	require.NoError(t, err)
	whole := slices.Concat(one, two, three)
	content, err := b.get("a/b", "")
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, content))
	require.Equal(t, []string{"a/b"}, b.list(10))
	require.Len(t, b.files(), 1, "parts are left")
	h := headerOf(t, b.files()["a/b"])
	require.False(t, seen[string(h.MessageID)])

	head, err := b.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: &u.key, PartNumber: aws.Int32(2), ChecksumMode: "ENABLED"})
	require.NoError(t, err)
	require.EqualValues(t, len(two), *head.ContentLength)
	require.EqualValues(t, 3, *head.PartsCount)
	require.Equal(t, "text/x-test", *head.ContentType)
	require.Equal(t, map[string]string{"colour": "blue"}, head.Metadata)
	require.Equal(t, done.ETag, head.ETag)
	tags, err := b.GetObjectTagging(t.Context(), b.name, u.key, "")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, tags)

	// The answer may have been lost.
	again, err := u.complete()
	require.NoError(t, err)
	require.Equal(t, done.ETag, again.ETag)
	require.Equal(t, done.ChecksumCRC64NVME, again.ChecksumCRC64NVME)
	_, err = b.put("a/b", []byte("newer"))
	require.NoError(t, err)
	_, err = u.complete()
	require.Equal(t, "NoSuchUpload", code(err))
	content, err = b.get("a/b", "")
	require.NoError(t, err)
	require.Equal(t, "newer", string(content))
}

func TestUploadIsAborted(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a")
	u.upload(1, random(100))
	require.NoError(t, u.abort())
	require.Empty(t, b.files())
	_, err := u.send(2, []byte("x"))
	require.Equal(t, "NoSuchUpload", code(err))
	_, err = u.complete()
	require.Equal(t, "NoSuchUpload", code(err))
}

// TestPartsAreNotExchanged exchanges stored parts behind the gateway. The gateway made these
// messages, but not for these places.
func TestPartsAreNotExchanged(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a")
	u.upload(1, random(fiveMiB))
	u.upload(2, random(fiveMiB))
	var names []string
	files := b.files()
	for name := range files {
		if strings.Contains(name, "/parts/") {
			names = append(names, name)
		}
	}
	require.Len(t, names, 2)
	for i, name := range names {
		content, size := files[names[1-i]], int64(len(files[names[1-i]]))
		_, err := behind.PutObject(t.Context(), s3response.PutObjectInput{Bucket: &b.name, Key: &name, Body: bytes.NewReader(content), ContentLength: &size})
		require.NoError(t, err)
	}
	_, err := u.complete()
	require.Equal(t, "InvalidObjectState", code(err))
	require.Empty(t, b.list(10))
}

// failing is a backend whose n-th call for objects fails, before or after the call is carried out.
type failing struct {
	backend.Backend
	left  atomic.Int64
	after bool
	calls atomic.Int64
}

var errFault = errors.New("the backend behind fails")

func fault[T any](f *failing, call func() (T, error)) (T, error) {
	f.calls.Add(1)
	if f.left.Add(-1) != 0 {
		return call()
	}
	var none T
	if f.after {
		if _, err := call(); err != nil {
			return none, err
		}
	}
	return none, errFault
}

func (f *failing) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	return fault(f, func() (s3response.PutObjectOutput, error) { return f.Backend.PutObject(ctx, in) })
}

func (f *failing) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	return fault(f, func() (*s3.GetObjectOutput, error) { return f.Backend.GetObject(ctx, in) })
}

func (f *failing) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	return fault(f, func() (*s3.HeadObjectOutput, error) { return f.Backend.HeadObject(ctx, in) })
}

func (f *failing) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	return fault(f, func() (s3response.ListObjectsV2Result, error) { return f.Backend.ListObjectsV2(ctx, in) })
}

func (f *failing) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	return fault(f, func() (s3response.DeleteResult, error) { return f.Backend.DeleteObjects(ctx, in) })
}

func (f *failing) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	return fault(f, func() (*s3.DeleteObjectOutput, error) { return f.Backend.DeleteObject(ctx, in) })
}

func (f *failing) CreateMultipartUpload(ctx context.Context, in s3response.CreateMultipartUploadInput) (s3response.InitiateMultipartUploadResult, error) {
	return fault(f, func() (s3response.InitiateMultipartUploadResult, error) {
		return f.Backend.CreateMultipartUpload(ctx, in)
	})
}

func (f *failing) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	return fault(f, func() (s3response.CopyPartResult, error) { return f.Backend.UploadPartCopy(ctx, in) })
}

func (f *failing) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	type result struct {
		out     s3response.CompleteMultipartUploadResult
		version string
	}
	r, err := fault(f, func() (r result, err error) {
		r.out, r.version, err = f.Backend.CompleteMultipartUpload(ctx, in)
		return r, err
	})
	return r.out, r.version, err
}

// TestEachCallFails makes each call of an upload in parts fail in its turn. The client repeats what
// failed, and has the whole object in the end. Before that it sees nothing of it.
func TestEachCallFails(t *testing.T) {
	race.SkipShort(t)
	one, two := random(fiveMiB), []byte("the rest")
	for _, after := range []bool{false, true} {
		for n := int64(1); ; n++ {
			f := &failing{Backend: behind, after: after}
			f.left.Store(n)
			b := newBucket(t, f)
			repeat := func(what string, do func() error) {
				err := do()
				if err != nil {
					require.Empty(t, b.visible("a"), "call %d, %s failed", n, what)
					err = do()
				}
				require.NoError(t, err, "call %d, %s", n, what)
			}
			var u *upload
			key := "a"
			repeat("create", func() error {
				out, err := b.CreateMultipartUpload(t.Context(), s3response.CreateMultipartUploadInput{Bucket: &b.name, Key: &key})
				u = &upload{b, key, out.UploadId, nil}
				return err
			})
			for i, content := range [][]byte{one, two} {
				repeat("part", func() error {
					part, err := u.send(int32(i+1), content)
					if err == nil {
						u.parts = append(u.parts, part)
					}
					return err
				})
			}
			if _, err := u.complete(); err != nil {
				_, err = u.complete()
				require.NoError(t, err, "call %d", n)
			}
			require.True(t, bytes.Equal(append(slices.Clone(one), two...), b.visible("a")), "call %d", n)
			reached := f.left.Load() <= 0
			f.left.Store(0)
			require.NoError(t, b.Sweep(t.Context(), b.name, 0))
			begun, err := b.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.name, MaxUploads: aws.Int32(10)})
			require.NoError(t, err)
			for _, one := range begun.Uploads { // one whose answer was lost
				require.NoError(t, b.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &one.Key, UploadId: &one.UploadID}))
			}
			require.Len(t, slices.Collect(maps.Keys(b.files())), 1, "call %d: something is left", n)
			if !reached {
				t.Logf("%d calls", f.calls.Load())
				break
			}
		}
	}
}

// visible returns what clients see of an object, or nil.
func (b *bucket) visible(key string) []byte {
	plain := newBackend(b.t, behind, b.keys)
	content, err := (&bucket{plain, b.t, b.name, b.keys}).get(key, "")
	if err != nil {
		require.Equal(b.t, "NoSuchKey", code(err))
		return nil
	}
	return content
}

// TestSweepLeavesWhatIsUnderWay sweeps beside an upload.
func TestSweepLeavesWhatIsUnderWay(t *testing.T) {
	b := newBucket(t, behind)
	u := begin(b, "a")
	u.upload(1, []byte("x"))
	require.NoError(t, b.Sweep(t.Context(), b.name, 0))
	_, err := u.complete()
	require.NoError(t, err)

	// A part that arrives when its upload is completed stays until it is old.
	name := fmt.Sprintf(".pikokms/uploads/%s/parts/00002.aa", u.id)
	size := int64(1)
	_, err = behind.PutObject(t.Context(), s3response.PutObjectInput{Bucket: &b.name, Key: &name, Body: strings.NewReader("x"), ContentLength: &size})
	require.NoError(t, err)
	require.NoError(t, b.Sweep(t.Context(), b.name, time.Hour))
	require.Len(t, b.files(), 2)
	require.NoError(t, b.Sweep(t.Context(), b.name, 0))
	require.Len(t, b.files(), 1)
}

func TestTenThousandParts(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 20,000 files; skipped in short mode")
	}
	b := newBucket(t, behind)
	u := begin(b, "a")
	// Each part but the last has at least 5 MiB, so this test lists many and completes one.
	for n := int32(1); n <= 3000; n++ {
		u.upload(n, []byte{byte(n)})
	}
	parts, err := b.ListParts(t.Context(), &s3.ListPartsInput{Bucket: &b.name, Key: &u.key, UploadId: &u.id, MaxParts: aws.Int32(10_000)})
	require.NoError(t, err)
	require.Len(t, parts.Parts, 3000)
	_, err = u.complete()
	require.Equal(t, "EntityTooSmall", code(err))
	u.parts = u.parts[2999:]
	_, err = u.complete()
	require.NoError(t, err)
	require.Len(t, b.files(), 1)
}

// TestUploadsAreListedInTheirOrder begins uploads of one key within a second.
func TestUploadsAreListedInTheirOrder(t *testing.T) {
	b := newBucket(t, behind)
	var begun, listed []string
	for range 8 {
		begun = append(begun, begin(b, "a").id)
	}
	out, err := b.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.name, MaxUploads: aws.Int32(10)})
	require.NoError(t, err)
	for _, u := range out.Uploads {
		listed = append(listed, u.UploadID)
	}
	require.Equal(t, begun, listed)
}

// withoutTenant is a key service whose key of one tenant can't be used any more.
type withoutTenant struct {
	provider.Keyring
	tenant string
	err    error
}

func (w withoutTenant) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if request.Context["tenant"] == w.tenant {
		return nil, w.err
	}
	return w.Keyring.UnwrapDataKey(ctx, request)
}

// TestUploadsWithoutTheirKey lists, sweeps and aborts uploads of tenants, one of whose keys is
// disabled or destroyed. Only reading and completing uploads needs their key.
func TestUploadsWithoutTheirKey(t *testing.T) {
	for _, gone := range []error{provider.ErrKeyDisabled, branchkey.ErrDestroyed, provider.ErrKeyNotFound} {
		b := newBucket(t, behind)
		of := func(keyring provider.Keyring) *bucket {
			key, err := encrypted.NewKey(message.Encrypter{Keyring: keyring}, message.Decrypter{Keyrings: []provider.Unwrapper{keyring}})
			require.NoError(t, err)
			return &bucket{encrypted.New(behind, encrypted.Config{Keys: func(_, name string) (*encrypted.Key, error) {
				tenant, _, _ := strings.Cut(name, "/")
				return key.With(map[string]string{"tenant": tenant}), nil
			}}), t, b.name, b.keys}
		}
		all, left := of(b.keys), of(withoutTenant{b.keys, "b", gone})
		kept, lost, done := begin(all, "a/x"), begin(all, "b/x"), begin(all, "b/done")
		for _, u := range []*upload{kept, lost, done} {
			u.upload(1, random(100))
		}
		leftover := make(map[string][]byte)
		for name, content := range b.files() {
			if strings.Contains(name, done.id) {
				leftover[name] = content
			}
		}
		_, err := done.complete()
		require.NoError(t, err)
		record := ".pikokms/uploads/" + done.id + "/upload"
		require.NotContains(t, b.files(), record)

		// A gateway that was killed when the upload was completed has left it.
		size := int64(len(leftover[record]))
		_, err = behind.PutObject(t.Context(), s3response.PutObjectInput{
			Bucket: &b.name, Key: &record, Body: bytes.NewReader(leftover[record]), ContentLength: &size,
			Metadata: map[string]string{"pikokms-key": base64.RawURLEncoding.EncodeToString([]byte("b/done"))},
		})
		require.NoError(t, err)
		require.NoError(t, left.Sweep(t.Context(), b.name, 0))
		require.NotContains(t, b.files(), record)

		listed, err := left.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.name, MaxUploads: aws.Int32(1000)})
		require.NoError(t, err)
		require.Len(t, listed.Uploads, 2)
		for i, u := range []*upload{kept, lost} {
			require.Equal(t, u.key, listed.Uploads[i].Key)
			require.Equal(t, u.id, listed.Uploads[i].UploadID)
			require.WithinDuration(t, time.Now(), listed.Uploads[i].Initiated, time.Minute)
		}
		lost.bucket = left
		_, err = lost.send(2, []byte("x"))
		require.Contains(t, code(err), "KMS.")
		other := *lost
		other.key = "a/x"
		require.Equal(t, "NoSuchUpload", code(other.abort()))
		require.NoError(t, lost.abort())
		require.Equal(t, "NoSuchUpload", code(lost.abort()))
		for name := range b.files() {
			require.NotContains(t, name, lost.id)
		}
		kept.bucket = left
		_, err = kept.complete()
		require.NoError(t, err)
	}
}
