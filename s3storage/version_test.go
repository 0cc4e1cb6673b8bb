package s3storage_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/s3storage"
)

// TestReplacementsKeep has objects that are rewrapped by a host and replaced by a caller. They keep
// what they have beside their content.
func TestReplacementsKeep(t *testing.T) {
	b := newBucket(t)
	storage := s3storage.New(b.client, b.name)
	host := newHost(t, storage)
	expires := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	put := func(key string, content []byte, expires *time.Time) {
		stored, err := host.EncryptObject(t.Context(), key, bytes.NewReader(content))
		require.NoError(t, err)
		var message bytes.Buffer
		_, err = message.ReadFrom(stored)
		require.NoError(t, err)
		_, err = b.client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: &b.name, Key: &key, Body: bytes.NewReader(message.Bytes()), ContentType: aws.String("image/png"), CacheControl: aws.String("no-store"),
			Metadata: map[string]string{"owner": "ann", "pikokms-header-size": "7"}, Tagging: aws.String("a=b%2B"), StorageClass: s3types.StorageClassOnezoneIa, Expires: expires,
		})
		require.NoError(t, err)
	}
	for _, size := range []int{10, 17 << 20} {
		content := noise(size)
		for name, replace := range map[string]func() error{
			"rewrapped": func() error { return host.Rewrap(t.Context(), "object") },
			"replaced": func() error {
				v, err := storage.OpenVersion(t.Context(), "object", "")
				require.NoError(t, err)
				defer v.Close()
				renewed, err := host.RewrapObject(t.Context(), "object", v)
				require.NoError(t, err)
				return storage.Replace(t.Context(), v, renewed)
			},
		} {
			put("object", content, &expires)
			require.NoError(t, replace(), name)
			require.True(t, bytes.Equal(content, get(t, host, "object")), name)
			head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("object")})
			require.NoError(t, err)
			require.Equal(t, "image/png", aws.ToString(head.ContentType), name)
			require.Equal(t, "no-store", aws.ToString(head.CacheControl), name)
			require.Equal(t, s3types.StorageClassOnezoneIa, head.StorageClass, name)
			require.Equal(t, "ann", head.Metadata["owner"], name)
			require.NotEqual(t, "7", head.Metadata["pikokms-header-size"], name)
			require.Contains(t, aws.ToString(head.ExpiresString), "06 May 2031 07:08:09", name)
			tags, err := b.client.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &b.name, Key: aws.String("object")})
			require.NoError(t, err)
			require.Len(t, tags.TagSet, 1, name)
			require.Equal(t, "b+", aws.ToString(tags.TagSet[0].Value), name)
		}
	}

	v, err := storage.OpenVersion(t.Context(), "object", "")
	require.NoError(t, err)
	defer v.Close()
	put("object", []byte("newer"), nil)
	require.ErrorIs(t, storage.Replace(t.Context(), v, strings.NewReader("x")), pikokms.ErrChanged)
	require.ErrorContains(t, storage.PutIf(t.Context(), "object", `"an ETag"`, strings.NewReader("x")), "not one of GetVersion")
	require.Equal(t, "newer", string(get(t, host, "object")))
}

// TestReplacementsKeepLocks has an object under Object Lock, which S3 encrypts under a key of KMS.
func TestReplacementsKeepLocks(t *testing.T) {
	b := newBucket(t)
	b.name += "-locked"
	_, err := b.client.CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket: &b.name, ObjectLockEnabledForBucket: aws.Bool(true),
		CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: emulator.Region},
	})
	require.NoError(t, err)
	keys := kms.New(kms.Options{Region: emulator.Region, BaseEndpoint: aws.String(emulator.LocalStack(t)), Credentials: login(), HTTPClient: b.client.Options().HTTPClient})
	key, err := keys.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	until := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	for _, size := range []int{10, 17 << 20} {
		_, err = b.client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: &b.name, Key: aws.String("object"), Body: strings.NewReader("plain"), ObjectLockMode: s3types.ObjectLockModeGovernance, ObjectLockRetainUntilDate: &until,
			ObjectLockLegalHoldStatus: s3types.ObjectLockLegalHoldStatusOn, ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: key.KeyMetadata.Arn,
		})
		require.NoError(t, err)
		storage := s3storage.New(b.client, b.name)
		v, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, storage.Replace(t.Context(), v, bytes.NewReader(noise(size))))
		require.NoError(t, v.Close())
		renewed, err := storage.OpenVersion(t.Context(), "object", "")
		require.NoError(t, err)
		require.NoError(t, renewed.Close())
		require.NotEqual(t, v.ID, renewed.ID)
		require.EqualValues(t, size, renewed.Size)
		head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: aws.String("object")})
		require.NoError(t, err)
		require.Equal(t, s3types.ObjectLockModeGovernance, head.ObjectLockMode)
		require.WithinDuration(t, until, aws.ToTime(head.ObjectLockRetainUntilDate), time.Second)
		require.Equal(t, s3types.ObjectLockLegalHoldStatusOn, head.ObjectLockLegalHoldStatus)
		require.Equal(t, s3types.ServerSideEncryptionAwsKms, head.ServerSideEncryption)
		require.Equal(t, aws.ToString(key.KeyMetadata.Arn), aws.ToString(head.SSEKMSKeyId))
	}
}
