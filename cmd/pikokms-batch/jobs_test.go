package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
)

const minute = time.Minute

// newKMSKey makes a key of LocalStack's KMS and returns its KEY.
func newKMSKey(t *testing.T) (keyURL, arn string) {
	t.Helper()
	endpoint := emulator.LocalStack(t)
	client := newKMS(t, endpoint)
	key, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	arn = aws.ToString(key.KeyMetadata.Arn)
	return "awskms:///" + arn + "?endpoint=" + url.QueryEscape(endpoint), arn
}

// TestJobs encrypts, verifies and rewraps objects of S3 under keys of KMS, both LocalStack's.
func TestJobs(t *testing.T) {
	b := newBucket(t, true)
	binary := bootstrap(t)
	oldURL, oldARN := newKMSKey(t)
	newURL, newARN := newKMSKey(t)
	endpoint := emulator.LocalStack(t)
	before, _ := start(t, binary, endpoint, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": oldURL})
	after, _ := start(t, binary, endpoint, map[string]string{"PIKOKMS_JOB": "rewrap", "PIKOKMS_KEY": newURL, "PIKOKMS_OLD_KEYS": oldURL})

	expires := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	describe := func(in *s3.PutObjectInput) {
		in.ContentType, in.CacheControl = aws.String("image/png"), aws.String("max-age=60")
		in.ContentDisposition, in.ContentEncoding, in.ContentLanguage = aws.String("inline"), aws.String("identity"), aws.String("cy")
		in.Metadata, in.Tagging = map[string]string{"owner": "Zoë"[:2], "pikokms-header-size": "7"}, aws.String("team=a%2Bb+c&empty=")
		in.StorageClass, in.Expires, in.WebsiteRedirectLocation = s3types.StorageClassStandardIa, &expires, aws.String("/elsewhere")
	}
	described := func(key string) {
		_, out := b.get(t, key, "")
		require.Equal(t, "image/png", aws.ToString(out.ContentType))
		require.Equal(t, "max-age=60", aws.ToString(out.CacheControl))
		require.Equal(t, "inline", aws.ToString(out.ContentDisposition))
		require.Contains(t, aws.ToString(out.ContentEncoding), "identity")
		require.Equal(t, "cy", aws.ToString(out.ContentLanguage))
		require.Equal(t, "Zo", out.Metadata["owner"])
		require.NotEqual(t, "7", out.Metadata["pikokms-header-size"], "it is the size of another header")
		require.Equal(t, s3types.StorageClassStandardIa, out.StorageClass)
		require.Equal(t, expires.Format(time.RFC1123)[:25], aws.ToString(out.ExpiresString)[:25])
		require.Equal(t, "/elsewhere", aws.ToString(out.WebsiteRedirectLocation))
		tags, err := b.client.GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &b.name, Key: &key})
		require.NoError(t, err)
		got := make(map[string]string)
		for _, tag := range tags.TagSet {
			got[*tag.Key] = *tag.Value
		}
		require.Equal(t, map[string]string{"team": "a+b c", "empty": ""}, got, key)
	}

	contents := make(map[string][]byte)
	var tasks []task
	for key, size := range map[string]int{"empty": 0, "one": 1, "folder/with space+plus é%2F&?#.png": 70_000, "in parts": 17 << 20} {
		contents[key] = noise(size)
		tasks = append(tasks, task{bucket: b.name, key: key, version: b.mustPut(t, key, contents[key], describe)})
	}
	// Both schemas, several tasks at once, and each task twice.
	for range 2 {
		for _, result := range invoke(t, before, request(tasks...), minute) {
			require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
		}
	}
	host := b.host(t, oldURL)
	encrypted := make(map[string]string)
	for key, content := range contents {
		stored, out := b.get(t, key, "")
		require.True(t, bytes.Contains(stored, []byte(oldARN)), key)
		if len(content) > 1 {
			require.False(t, bytes.Contains(stored, content[:50]), key)
		}
		require.True(t, bytes.Equal(content, read(t, host, key)), key)
		encrypted[key] = aws.ToString(out.VersionId)
		described(key)
	}
	for _, key := range []string{"one", "in parts"} {
		versions, err := b.client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.name, Prefix: &key})
		require.NoError(t, err)
		require.Len(t, versions.Versions, 2, "a task that came twice did not put twice")
	}

	for _, result := range invoke(t, after, request2(map[string]string{"job": "verify"}, tasks...), minute) {
		require.Equal(t, "PermanentFailure", result.ResultCode, "the version of the manifest is the plain one")
		require.Contains(t, result.ResultString, "not encrypted")
	}
	for i, task := range tasks {
		tasks[i].version = encrypted[task.key]
	}
	for _, result := range invoke(t, after, request2(map[string]string{"job": "verify"}, tasks...), minute) {
		require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
		require.Contains(t, result.ResultString, "verified")
	}
	for range 2 {
		for _, result := range invoke(t, after, request2(nil, tasks...), minute) {
			require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
		}
	}
	host = b.host(t, newURL)
	for key, content := range contents {
		stored, _ := b.get(t, key, "")
		require.True(t, bytes.Contains(stored, []byte(newARN)), key)
		require.False(t, bytes.Contains(stored, []byte(oldARN)), key)
		require.True(t, bytes.Equal(content, read(t, host, key)), key)
		described(key)
	}

	// A byte that was changed.
	stored, _ := b.get(t, "one", "")
	stored[len(stored)-1] ^= 1
	b.mustPut(t, "broken", stored)
	result := invoke(t, after, request2(map[string]string{"job": "verify"}, task{bucket: b.name, key: "broken"}), minute)[0]
	require.Equal(t, "PermanentFailure", result.ResultCode)
	require.Contains(t, result.ResultString, "authenti")
}

// TestRefusals runs tasks that can't succeed. Each leaves its object as it is, and its reason says
// why.
func TestRefusals(t *testing.T) {
	b := newBucket(t, true)
	keyURL, _ := newKMSKey(t)
	otherURL, _ := newKMSKey(t)
	sandbox, log := start(t, bootstrap(t), emulator.LocalStack(t), map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL, "PIKOKMS_MB_PER_SECOND": "0.02"})
	plain := noise(500)
	first := b.mustPut(t, "replaced", plain)
	second := b.mustPut(t, "replaced", []byte("newer"))
	require.NoError(t, b.host(t, otherURL).Put(t.Context(), "under another", bytes.NewReader(plain)))
	b.mustPut(t, "piko", append([]byte{2, 0, 0, 0, 60}, noise(80)...))
	b.mustPut(t, "message", append([]byte{2, 4, 0x78}, noise(80)...))
	large := noise(1_100_000)
	b.mustPut(t, "it's large", large)
	b.mustPut(t, "a b", plain)
	b.mustPut(t, "a+b", []byte("a+b"))
	b.mustPut(t, "c+d", plain)
	b.mustPut(t, "e f", plain)
	spaced := b.mustPut(t, "g h", plain)
	plus := b.mustPut(t, "g+h", []byte("g+h"))
	b.mustPut(t, "folder/", nil)
	b.mustPut(t, "archived", plain, func(in *s3.PutObjectInput) { in.StorageClass = s3types.StorageClassDeepArchive })
	b.mustPut(t, "deleted", plain)
	_, err := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: aws.String("deleted")})
	require.NoError(t, err)

	for _, c := range []struct {
		task         task
		code, reason string
		arguments    map[string]string
	}{
		{task: task{key: "replaced", version: first}, code: "PermanentFailure", reason: "not the current one any more"},
		{task: task{key: "under another"}, code: "PermanentFailure", reason: "the job rewrap moves it"},
		{task: task{key: "under another"}, code: "PermanentFailure", reason: "no key of this provider", arguments: map[string]string{"job": "rewrap"}},
		{task: task{key: "piko"}, code: "PermanentFailure", reason: "before pikokms"},
		{task: task{key: "message"}, code: "PermanentFailure", reason: "header can't be read"},
		{task: task{key: "missing"}, code: "PermanentFailure", reason: "there is no such object any more"},
		{task: task{key: "deleted"}, code: "PermanentFailure", reason: "there is no such object any more"},
		{task: task{key: "archived"}, code: "PermanentFailure", reason: "restore it first"},
		{task: task{encoded: "%zz"}, code: "PermanentFailure", reason: "not URL-encoded"},
		{task: task{encoded: "a+b"}, code: "PermanentFailure", reason: `there are both the object "a b" and "a+b"; write a space as %20 and a plus as %2B`},
		{task: task{encoded: "a%20b"}, code: "Succeeded", reason: "encrypted"},
		{task: task{encoded: "g+h", version: plus}, code: "Succeeded", reason: "encrypted: 3 bytes"},
		{task: task{encoded: "g+h", version: spaced}, code: "Succeeded", reason: "encrypted: 500 bytes"},
		{task: task{key: "replaced"}, code: "PermanentFailure", reason: "the job encrypt encrypts it", arguments: map[string]string{"job": "rewrap"}},
		{task: task{key: "replaced"}, code: "PermanentFailure", reason: `the job "shred" is not known`, arguments: map[string]string{"job": "shred"}},
		{task: task{key: "replaced"}, code: "PermanentFailure", reason: `the only one is "job"`, arguments: map[string]string{"key": keyURL}},
		{task: task{key: "it's large"}, code: "PermanentFailure", reason: `run pikokms encrypt -k '` + keyURL + `' --in-place 's3://` + b.name + `/it%27s%20large?region=eu-west-1'`},
		{task: task{bucket: "no-such-bucket-" + b.name[:10], key: "x"}, code: "PermanentFailure", reason: "NoSuchBucket"},
		{task: task{key: "folder/"}, code: "Succeeded", reason: "stands for a folder"},
		{task: task{encoded: "c+d"}, code: "PermanentFailure", reason: `there is no such object, but there is "c+d", which has to be written with %2B`},
		{task: task{encoded: "e+f"}, code: "Succeeded"},
		{task: task{key: "replaced", version: second}, code: "Succeeded"},
	} {
		if c.task.bucket == "" {
			c.task.bucket = b.name
		}
		result := invoke(t, sandbox, request2(c.arguments, c.task), minute)[0]
		name := fmt.Sprintf("%+v: %+v", c.task, result)
		require.Equal(t, c.code, result.ResultCode, name)
		require.Contains(t, strings.ReplaceAll(result.ResultString, `'\''`, "%27"), c.reason, name)
	}
	for _, key := range []string{"it's large", "a+b", "c+d"} {
		stored, _ := b.get(t, key, "")
		require.False(t, bytes.HasPrefix(stored, []byte{2, 4}), key)
	}
	stored, _ := b.get(t, "replaced", first)
	require.Equal(t, plain, stored)
	host := b.host(t, keyURL)
	require.Equal(t, "newer", string(read(t, host, "replaced")))
	require.Equal(t, plain, read(t, host, "a b"))
	require.Equal(t, plain, read(t, host, "g h"))
	require.Equal(t, "g+h", string(read(t, host, "g+h")))
	require.Equal(t, plain, read(t, host, "e f"))
	require.Contains(t, log.String(), `"key":"it%27s+large"`)
}

// TestRequestsThatAreNone sends requests in which there is no task.
func TestRequestsThatAreNone(t *testing.T) {
	sandbox, _ := start(t, bootstrap(t), "http://127.0.0.1:1", map[string]string{})
	for _, payload := range []string{`{}`, `[]`, `{"invocationSchemaVersion":"3.0"}`, `{"invocationSchemaVersion":"1.0","tasks":7}`} {
		_, err := sandbox.Invoke(context.Background(), []byte(payload), minute)
		require.ErrorContains(t, err, "S3 Batch Operations", payload)
	}
	// A wrong configuration is the reason of each task, and the function keeps running.
	for _, e := range []any{request(task{bucket: "b", key: "k"}), request2(nil, task{bucket: "b", key: "k"})} {
		result := invoke(t, sandbox, e, minute)[0]
		require.Equal(t, "PermanentFailure", result.ResultCode)
		require.Contains(t, result.ResultString, "PIKOKMS_KEY names 0 KEYs")
	}
	var wrong strings.Builder
	for name, value := range map[string]string{
		"PIKOKMS_JOB": "shred", "PIKOKMS_KEY": "awskms://alias/x", "PIKOKMS_OLD_KEYS": "local:key azure:k", "PIKOKMS_ALLOW_PIKO_V2": "7",
		"PIKOKMS_DATA_KEY_CACHE": "soon", "PIKOKMS_MB_PER_SECOND": "-1", "PIKOKMS_BIND_UNBOUND": "true", "PIKOKMS_ALLOW_LOSSES": "acl everything",
		"PIKOKMS_REQUESTER_PAYS": "perhaps",
	} {
		sandbox, _ := start(t, bootstrap(t), "http://127.0.0.1:1", map[string]string{name: value})
		result := invoke(t, sandbox, request(task{bucket: "b", key: "k"}), minute)[0]
		require.Equal(t, "PermanentFailure", result.ResultCode)
		require.Contains(t, result.ResultString, name, "%s=%s", name, value)
		wrong.WriteString(result.ResultString)
	}
	require.Contains(t, wrong.String(), "does not name the key by its ARN")
}
