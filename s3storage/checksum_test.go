package s3storage_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/s3storage"
)

// TestReplacementsKeepTheAlgorithmOfTheChecksum has objects with checksums of each algorithm, and
// clients that verify checksums and that do not. The AWS SDK then reads the replacement's.
func TestReplacementsKeepTheAlgorithmOfTheChecksum(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			b := newBucketAt(t, server.start(t))
			for _, validation := range []aws.ResponseChecksumValidation{aws.ResponseChecksumValidationWhenRequired, aws.ResponseChecksumValidationWhenSupported} {
				client := s3.New(b.client.Options(), func(o *s3.Options) { o.ResponseChecksumValidation = validation })
				storage := s3storage.New(client, b.name, s3storage.WithAllowedLosses(s3storage.LossLock))
				host := newHost(t, storage)
				for _, algorithm := range []s3types.ChecksumAlgorithm{
					s3types.ChecksumAlgorithmSha256, s3types.ChecksumAlgorithmSha1, s3types.ChecksumAlgorithmCrc32, s3types.ChecksumAlgorithmCrc32c, s3types.ChecksumAlgorithmCrc64nvme,
				} {
					what := fmt.Sprint(algorithm, " ", validation)
					stored := encrypted(t, host, "object", []byte("content"))
					_, err := b.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String("object"), Body: bytes.NewReader(stored), ChecksumAlgorithm: algorithm})
					require.NoError(t, err, what)
					before := checksums(t, b, "object")
					if len(before) == 0 && server.name == "moto" {
						continue // moto has not all of them
					}
					require.Contains(t, before, algorithm, what)
					require.NoError(t, host.Rewrap(t.Context(), "object"), what)
					after := checksums(t, b, "object")
					require.Len(t, after, len(before), "%s: %v", what, after)
					require.Contains(t, after, algorithm, what)
					require.NotEqual(t, before, after, "it is that of other content")
				}
			}
		})
	}
}

// checksums returns what the AWS SDK reads of an object's checksums, by their algorithm.
func checksums(t *testing.T, b *bucket, key string) map[s3types.ChecksumAlgorithm]string {
	t.Helper()
	head, err := b.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: &key, ChecksumMode: s3types.ChecksumModeEnabled})
	require.NoError(t, err)
	found := make(map[s3types.ChecksumAlgorithm]string)
	for algorithm, sum := range map[s3types.ChecksumAlgorithm]*string{
		s3types.ChecksumAlgorithmSha256: head.ChecksumSHA256, s3types.ChecksumAlgorithmSha1: head.ChecksumSHA1, s3types.ChecksumAlgorithmCrc32: head.ChecksumCRC32,
		s3types.ChecksumAlgorithmCrc32c: head.ChecksumCRC32C, s3types.ChecksumAlgorithmCrc64nvme: head.ChecksumCRC64NVME,
	} {
		if sum != nil {
			found[algorithm] = *sum
		}
	}
	return found
}

// TestAClientDecidesWhetherChecksumsAreVerified has a checksum that is wrong. It is asked for in
// any case.
func TestAClientDecidesWhetherChecksumsAreVerified(t *testing.T) {
	b := newBucketInMemory()
	var asked []string
	b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			asked = append(asked, r.Header.Get("X-Amz-Checksum-Mode"))
			w.Header().Set("X-Amz-Checksum-Crc32", "AAAAAA==")
		}
		return false
	})
	for validation, verifies := range map[aws.ResponseChecksumValidation]bool{
		aws.ResponseChecksumValidationWhenRequired: false, aws.ResponseChecksumValidationWhenSupported: true, aws.ResponseChecksumValidationUnset: true,
	} {
		storage := s3storage.New(b.serve(t, func(o *s3.Options) { o.ResponseChecksumValidation = validation }), "bucket")
		require.NoError(t, storage.Put(t.Context(), "object", strings.NewReader("content")))
		asked = nil
		r, err := storage.Get(t.Context(), "object")
		require.NoError(t, err)
		_, err = io.ReadAll(r)
		require.NoError(t, r.Close())
		require.Equal(t, []string{"ENABLED"}, asked)
		if verifies {
			require.ErrorContains(t, err, "checksum")
		} else {
			require.NoError(t, err)
		}
	}
}
