package s3storage_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/s3storage"
)

// oddKeys are keys that S3 takes and file systems, URLs and XML do not, or change.
var oddKeys = []string{
	"a/b", "a__0x2f__b", "folder/", "folder//double", "/leading", "trailing/with content/", ".", "..", "../up", "a/../../b", "./here",
	"per%cent", "per%25cent", "%2e%2e%2f", "a+b", "a b", "a%20b", "a%2Bb", "q?uestion", "h#ash", "amp&er;sand", "less<than>", "qu\"ote'", "back\\slash",
	"tab\there", "line\nend", "carriage\rreturn", "\x01\x02\x1f control", "delete\x7f", "ü/日本/\U0001F600", "\uFEFFbom", "e\u0301 and é", "private\uE000", "sp ace/",
	"*", "~", "$dollar", "`tick`", "{brace}", "^caret|pipe", "colon:semi;", "UP", "up", "trail.", strings.Repeat("k", 1024), strings.Repeat("long/", 204) + "abc", "uploads", "tagging",
}

// TestOddKeys works on an object of each key at each door, and on no other one.
func TestOddKeys(t *testing.T) {
	race.SkipShort(t)
	memory := func(t *testing.T) (*s3.Client, string, []string) {
		return newBucketInMemory().serve(t), "bucket", oddKeys
	}
	moto := func(t *testing.T) (*s3.Client, string, []string) {
		b := newBucketAt(t, emulator.Moto(t))
		return b.client, b.name, slices.DeleteFunc(slices.Clone(oddKeys), func(key string) bool { return motoRefuses(key) })
	}
	localStack := func(t *testing.T) (*s3.Client, string, []string) {
		b := newBucketAt(t, emulator.LocalStack(t))
		return b.client, b.name, oddKeys
	}
	for name, start := range map[string]func(t *testing.T) (*s3.Client, string, []string){"in memory": memory, "moto": moto, "LocalStack": localStack} {
		t.Run(name, func(t *testing.T) {
			client, bucket, keys := start(t)
			storage := s3storage.New(client, bucket)
			host := newHost(t, storage)
			for _, key := range keys {
				require.NoError(t, storage.PutNew(t.Context(), key, nil, strings.NewReader("plain "+key)), "%q", key)
				require.ErrorIs(t, storage.PutNew(t.Context(), key, nil, strings.NewReader("another")), fs.ErrExist, "%q", key)
			}
			var listed []string
			for object, err := range storage.Objects(t.Context(), "") {
				require.NoError(t, err)
				require.EqualValues(t, len("plain "+*object.Key), *object.Size, "%q", *object.Key)
				listed = append(listed, *object.Key)
			}
			require.Equal(t, slices.Sorted(slices.Values(keys)), listed)
			for _, key := range keys {
				stat, err := storage.Stat(t.Context(), key)
				require.NoError(t, err, "%q", key)
				v, err := storage.OpenVersion(t.Context(), key, "")
				require.NoError(t, err, "%q", key)
				require.Equal(t, stat.ETag, v.ETag)
				require.Equal(t, stat.Size, v.ContentLength)
				require.Equal(t, stat.LastModified, v.LastModified)
				content, err := host.EncryptObject(t.Context(), key, v.Body, nil)
				require.NoError(t, err)
				require.NoError(t, storage.Replace(t.Context(), v, content), "%q", key)
				require.NoError(t, v.Body.Close())
				require.NoError(t, host.Rewrap(t.Context(), key), "%q", key)
			}
			for _, key := range keys {
				// By the SDK's own client, and by the storage.
				out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
				require.NoError(t, err, "%q", key)
				stored, err := io.ReadAll(out.Body)
				require.NoError(t, err)
				require.False(t, bytes.Contains(stored, []byte("plain")), "%q", key)
				original, _, err := host.DecryptObject(t.Context(), key, bytes.NewReader(stored), int64(len(stored)), nil)
				require.NoError(t, err, "%q", key)
				got, err := io.ReadAll(original)
				require.NoError(t, err)
				require.Equal(t, "plain "+key, string(got))
				o, err := host.Open(t.Context(), key)
				require.NoError(t, err, "%q", key)
				got, err = io.ReadAll(o)
				require.NoError(t, errors.Join(err, o.Close()))
				require.Equal(t, "plain "+key, string(got))
			}
			for _, key := range keys {
				require.NoError(t, storage.Delete(t.Context(), key), "%q", key)
				_, err := storage.Stat(t.Context(), key)
				require.ErrorIs(t, err, fs.ErrNotExist, "%q", key)
				_, err = storage.OpenVersion(t.Context(), key, "")
				require.ErrorIs(t, err, fs.ErrNotExist, "%q", key)
			}
			left, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket, EncodingType: s3types.EncodingTypeUrl})
			require.NoError(t, err)
			for _, object := range left.Contents {
				key, err := url.QueryUnescape(aws.ToString(object.Key))
				t.Errorf("%q is left: %v", key, err)
			}
		})
	}
}

// motoRefuses reports whether moto 5.2.5 answers 404 to a PUT of the key.
func motoRefuses(key string) bool { return strings.ContainsAny(key, "\n\r") }

func TestErrorsAreOnOneLine(t *testing.T) {
	storage := s3storage.New(newBucketInMemory().serve(t), "bucket")
	_, err := storage.Stat(t.Context(), "line\nend\x1b[31m")
	require.ErrorContains(t, err, `s3://bucket/"line\nend\x1b[31m"`)
	require.NotContains(t, err.Error(), "\n")
}
