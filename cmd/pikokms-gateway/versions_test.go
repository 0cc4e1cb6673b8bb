package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
)

// TestVersions runs the gateway in front of a bucket with versions, of LocalStack.
func TestVersions(t *testing.T) {
	localStack := emulator.LocalStack(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	upstream := s3.New(s3.Options{
		BaseEndpoint: &localStack, UsePathStyle: true, Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
		}),
	})
	bucket := aws.String("versions-" + strings.ToLower(rand.Text()))
	_, err := upstream.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: bucket})
	require.NoError(t, err)
	_, err = upstream.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	require.NoError(t, err)
	g := start(t, "-k", newKey(t), "--upstream", "s3://"+*bucket+"?region=us-east-1&endpoint="+url.QueryEscape(localStack))

	get := func(key string, version *string) string {
		t.Helper()
		out, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: bucket, Key: &key, VersionId: version})
		require.NoError(t, err)
		content, err := io.ReadAll(out.Body)
		require.NoError(t, err)
		require.NoError(t, out.Body.Close())
		return string(content)
	}
	var versions []*string
	for _, content := range []string{"one", "two", "three"} {
		out, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: aws.String("a"), Body: strings.NewReader(content)})
		require.NoError(t, err)
		versions = append(versions, out.VersionId)
	}
	_, err = g.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: aws.String("a")})
	require.NoError(t, err)
	_, err = g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: bucket, Key: aws.String("a")})
	requireCode(t, "NoSuchKey", err)
	for i, content := range []string{"one", "two", "three"} {
		require.Equal(t, content, get("a", versions[i]))
	}

	whole := make([]byte, 11<<20)
	rand.Read(whole)
	upload, err := g.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: aws.String("big")})
	require.NoError(t, err)
	var parts []types.CompletedPart
	for part := range slices.Chunk(whole, 6<<20) {
		number := int32(len(parts) + 1)
		out, err := g.client.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: bucket, Key: aws.String("big"), UploadId: upload.UploadId, PartNumber: &number, Body: bytes.NewReader(part)})
		require.NoError(t, err)
		parts = append(parts, types.CompletedPart{PartNumber: &number, ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	}
	_, err = g.client.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: aws.String("big"), UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	require.NoError(t, err)
	require.Equal(t, string(whole), get("big", nil))

	// Clients see only the versions of their objects. Behind the gateway there are those of the parts,
	// too.
	list, err := g.client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: bucket})
	require.NoError(t, err)
	sizes := make(map[string]int64)
	for _, v := range list.Versions {
		sizes[*v.Key] += *v.Size
	}
	require.Equal(t, map[string]int64{"a": 11, "big": int64(len(whole))}, sizes)
	require.Len(t, list.DeleteMarkers, 1)
	hidden, err := upstream.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: bucket, Prefix: aws.String(".pikokms/")})
	require.NoError(t, err)
	var stored int64
	for _, v := range hidden.Versions {
		require.False(t, *v.IsLatest, *v.Key)
		stored += *v.Size
	}
	require.Greater(t, stored, int64(len(whole)))
	require.Len(t, hidden.DeleteMarkers, 5)

	// The rule in the documentation is valid. LocalStack expires nothing by it.
	page, err := os.ReadFile("../../docs/GATEWAY.md")
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "```json\n")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "```")
	var rules types.BucketLifecycleConfiguration
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&rules))
	_, err = upstream.PutBucketLifecycleConfiguration(t.Context(), &s3.PutBucketLifecycleConfigurationInput{Bucket: bucket, LifecycleConfiguration: &rules})
	require.NoError(t, err)
	accepted, err := upstream.GetBucketLifecycleConfiguration(t.Context(), &s3.GetBucketLifecycleConfigurationInput{Bucket: bucket})
	require.NoError(t, err)
	require.Len(t, accepted.Rules, len(rules.Rules))
	require.EqualValues(t, 1, *accepted.Rules[0].NoncurrentVersionExpiration.NoncurrentDays)

	// The bucket is deleted once it is empty, as clients see it.
	_, err = g.client.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: bucket})
	requireCode(t, "BucketNotEmpty", err)
	var all []types.ObjectIdentifier
	for _, v := range list.Versions {
		all = append(all, types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
	}
	for _, m := range list.DeleteMarkers {
		all = append(all, types.ObjectIdentifier{Key: m.Key, VersionId: m.VersionId})
	}
	deleted, err := g.client.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: all}})
	require.NoError(t, err)
	require.Empty(t, deleted.Errors)
	_, err = g.client.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: bucket})
	require.NoError(t, err)
}
