package main

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

const tenants = 20

// newTable makes a table with a branch key for each tenant: t0, t1 and so on. The KEY takes the
// branch key from the pair "tenant".
func newTable(t *testing.T, key string) {
	t.Helper()
	u, err := url.Parse(key)
	require.NoError(t, err)
	c, err := branchkey.ParseURL(u)
	require.NoError(t, err)
	store, err := branchkey.NewStore(t.Context(), c)
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.CreateTable(t.Context()))
	for i := range tenants {
		_, err := store.Create(t.Context(), fmt.Sprintf("t%d", i), map[string]string{"kind": "tenant"})
		require.NoError(t, err)
	}
}

// TestTenants gives each tenant a branch key by one line of configuration. The bucket, or a folder
// in it, is the ID.
func TestTenants(t *testing.T) {
	t.Run("a table in a file", func(t *testing.T) {
		key := "branchkey://" + filepath.ToSlash(filepath.Join(t.TempDir(), "keys.db")) + "?by=tenant&master=" + url.QueryEscape(newKey(t))
		newTable(t, key)
		testTenants(t, key)
	})
	t.Run("DynamoDB and KMS", func(t *testing.T) {
		table := emulator.Moto(t)
		t.Setenv("AWS_ACCESS_KEY_ID", "test")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
		kms := kmstest.NewServer(t)
		key := "branchkey://keys?by=tenant&key=" + kms.CreateKey(kmstest.Key{}).ARN + "&kms-endpoint=" + url.QueryEscape(kms.URL) + "&table-endpoint=" + url.QueryEscape(table)
		newTable(t, key)
		before := kms.Calls("Decrypt")
		testTenants(t, key)
		calls := kms.Calls("Decrypt") - before
		t.Logf("%d calls of KMS", calls)
		require.LessOrEqual(t, calls, 3*tenants) // the gateway and this test, once for each
	})
}

func testTenants(t *testing.T, key string) {
	folder := t.TempDir()
	g := start(t, "--folder", folder, "--key-for", "data/{tenant}/="+key, "--key-for", "{tenant}="+key)
	g.makeBucket(t, "data")
	g.makeBucket(t, "t19")
	put := func(bucket, name, content string) error {
		_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &name, Body: bytes.NewReader([]byte(content))})
		return err
	}
	get := func(bucket, name string) (string, error) {
		out, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &name})
		if err != nil {
			return "", err
		}
		defer out.Body.Close()
		content, err := io.ReadAll(out.Body)
		return string(content), err
	}
	keyring := openKeyring(t, key)
	requireTenant := func(bucket, name, tenant, content string) {
		t.Helper()
		stored, err := os.ReadFile(filepath.Join(folder, bucket, name))
		require.NoError(t, err)
		h, _, err := header.Parse(stored, header.Limits{})
		require.NoError(t, err)
		require.Len(t, h.EncryptedDataKeys, 1)
		require.Equal(t, tenant, string(h.EncryptedDataKeys[0].ProviderInfo))
		require.Equal(t, tenant, h.EncryptionContext["tenant"])
		d := message.Decrypter{Keyrings: []provider.Unwrapper{keyring}}
		plain, _, err := d.Decrypt(t.Context(), stored, nil)
		require.NoError(t, err)
		require.Equal(t, content, string(plain))
		got, err := get(bucket, name)
		require.NoError(t, err)
		require.Equal(t, content, got)
	}

	for i := range tenants {
		tenant := fmt.Sprintf("t%d", i)
		require.NoError(t, put("data", tenant+"/x", "of "+tenant))
		requireTenant("data", tenant+"/x", tenant, "of "+tenant)
	}
	require.NoError(t, put("t19", "x", "of a bucket"))
	requireTenant("t19", "x", "t19", "of a bucket")
	requireCode(t, "KMS.NotFoundException", put("data", "x", "of no folder, so of the bucket"))
	requireCode(t, "KMS.NotFoundException", put("data", "stranger/x", "of a stranger"))
	require.NoFileExists(t, filepath.Join(folder, "data", "stranger", "x"))

	list, err := g.client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("data")})
	require.NoError(t, err)
	require.Len(t, list.Contents, tenants)
	for _, o := range list.Contents {
		require.EqualValues(t, len("of ")+len(filepath.Dir(*o.Key)), *o.Size, *o.Key)
	}

	// A copy is encrypted anew, also as a part of an upload.
	_, err = g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("data"), Key: aws.String("t1/copy"), CopySource: aws.String("data/t0/x")})
	require.NoError(t, err)
	requireTenant("data", "t1/copy", "t1", "of t0")
	_, err = g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("t19"), Key: aws.String("copy"), CopySource: aws.String("data/t0/x")})
	require.NoError(t, err)
	requireTenant("t19", "copy", "t19", "of t0")
	to := &s3.CreateMultipartUploadInput{Bucket: aws.String("data"), Key: aws.String("t2/joined")}
	upload, err := g.client.CreateMultipartUpload(t.Context(), to)
	require.NoError(t, err)
	part, err := g.client.UploadPartCopy(t.Context(), &s3.UploadPartCopyInput{
		Bucket: to.Bucket, Key: to.Key, UploadId: upload.UploadId, PartNumber: aws.Int32(1), CopySource: aws.String("data/t3/x"),
	})
	require.NoError(t, err)
	_, err = g.client.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: to.Bucket, Key: to.Key, UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.CopyPartResult.ETag, PartNumber: aws.Int32(1)}}},
	})
	require.NoError(t, err)
	requireTenant("data", "t2/joined", "t2", "of t3")

	// An object that was moved to another tenant behind the gateway is refused, though its branch key
	// is known.
	moved, err := os.ReadFile(filepath.Join(folder, "data", "t4", "x"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "data", "t5", "x"), moved, 0o600))
	_, err = get("data", "t5/x")
	requireCode(t, "InvalidObjectState", err)
	_, err = g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: aws.String("t5/x"), Range: aws.String("bytes=0-1")})
	requireCode(t, "InvalidObjectState", err)
	_, err = g.client.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("data"), Key: aws.String("t5/y"), CopySource: aws.String("data/t5/x")})
	requireCode(t, "InvalidObjectState", err)
}

// openKeyring opens a KEY as another program does.
func openKeyring(t *testing.T, key string) provider.Unwrapper {
	t.Helper()
	u, err := url.Parse(key)
	require.NoError(t, err)
	c, err := branchkey.ParseURL(u)
	require.NoError(t, err)
	p, err := branchkey.NewProvider(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// TestNamesOfTenants puts objects with various names. The one KEY is for the folders of a bucket,
// so some of them have none.
func TestNamesOfTenants(t *testing.T) {
	g := start(t, "--folder", t.TempDir(), "--key-for", "data/{tenant}/="+newKey(t))
	g.makeBucket(t, "data")
	put := func(name, content string) error {
		_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: &name, Body: bytes.NewReader([]byte(content))})
		return err
	}
	require.NoError(t, put("a/", ""))
	_, err := g.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String("data"), Key: aws.String("a/")})
	require.NoError(t, err)
	require.NoError(t, put("a/x", "content"))
	requireCode(t, "AccessDenied", put("a", "content"))
	requireCode(t, "InvalidArgument", put("\xff/x", "content"))
}

// TestPlaintextOfTenants reads what is not encrypted yet.
func TestPlaintextOfTenants(t *testing.T) {
	folder := t.TempDir()
	g := start(t, "--folder", folder, "--key-for", "data/{tenant}/="+newKey(t), "--allow-plaintext")
	g.makeBucket(t, "data")
	_, err := g.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("a/x"), Body: bytes.NewReader([]byte("encrypted"))})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "data", "a", "old"), []byte("old times"), 0o600))
	for name, want := range map[string]string{"a/x": "encrypted", "a/old": "old times"} {
		for _, ranged := range []string{"", "bytes=1-3"} {
			out, err := g.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("data"), Key: &name, Range: &ranged})
			require.NoError(t, err)
			content, err := io.ReadAll(out.Body)
			require.NoError(t, err)
			require.NoError(t, out.Body.Close())
			if ranged != "" {
				want = want[1:4]
			}
			require.Equal(t, want, string(content))
		}
	}
}
