package command

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/provider/local"
)

// cloudVariables name environment variables with the URL of an empty bucket in which tests may
// write, such as one of fake-gcs-server or Azurite. What the URL does not say, the clouds' own
// variables say.
var cloudVariables = map[string]string{"GCS": "PIKOKMS_GCS_URL", "Azure": "PIKOKMS_AZURE_URL"}

// inEachCloud runs a test with a place in GCS and one in Azure.
func inEachCloud(t *testing.T, test func(t *testing.T, place string)) {
	for name, variable := range cloudVariables {
		t.Run(name, func(t *testing.T) {
			url := os.Getenv(variable)
			if url == "" {
				t.Skipf("skipped: %s names no bucket", variable)
			}
			address, query, _ := strings.Cut(url, "?")
			place := strings.TrimSuffix(address, "/") + "/" + strings.ToLower(rand.Text()) + "/"
			if query != "" {
				place += "?" + query
			}
			makeBucket(t, place)
			test(t, place)
		})
	}
}

// makeBucket makes the bucket of a place unless there is one.
func makeBucket(t *testing.T, place string) {
	t.Helper()
	bucket := bucketOf(t, place)
	if _, err := bucket.List(nil).Next(t.Context()); err == nil || !strings.Contains(err.Error(), "NotFound") {
		return
	}
	var gcs *storage.Client
	var az *container.Client
	switch name := strings.Split(place, "/")[2]; {
	case bucket.As(&gcs):
		require.NoError(t, gcs.Bucket(name).Create(t.Context(), "test", nil))
	case bucket.As(&az):
		_, err := az.Create(t.Context(), nil)
		require.NoError(t, err)
	}
}

// cheaper has an object stored in a class or tier that is not the bucket's.
func cheaper(as func(any) bool) error {
	var w *storage.Writer
	var stream *azblob.UploadStreamOptions
	switch {
	case as(&w):
		w.StorageClass = "NEARLINE"
	case as(&stream):
		tier := azure.AccessTierCool
		stream.AccessTier = &tier
	}
	return nil
}

// classOf returns the storage class or the access tier, and whether it is the account's.
func classOf(a *blob.Attributes) string {
	var gcs storage.ObjectAttrs
	var az azure.GetPropertiesResponse
	switch {
	case a.As(&gcs):
		return gcs.StorageClass
	case a.As(&az) && az.AccessTier != nil:
		return fmt.Sprint(*az.AccessTier, az.AccessTierInferred != nil && *az.AccessTierInferred)
	}
	return ""
}

// Objects in GCS and Azure are encrypted, moved and decrypted in place, with their metadata.
func TestCloudsInPlace(t *testing.T) {
	inEachCloud(t, func(t *testing.T, place string) {
		bucket := bucketOf(t, place)
		marker := []byte("PLAINTEXT-MARKER ")
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, err := z.Write(bytes.Repeat(marker, 5000))
		require.NoError(t, errors.Join(err, z.Close()))
		contents := map[string][]byte{
			"a.txt": bytes.Repeat(marker, 5000), "empty": nil, "zipped": zipped.Bytes(), "usual": marker,
			"large": bytes.Repeat(marker, 20<<20/len(marker)), "ü % # ? & + \"x\".txt": marker, "new\nline": marker, `back\slash`: marker, "%41": marker,
		}
		before := make(map[string]*blob.Attributes)
		for name, content := range contents {
			options := blob.WriterOptions{ContentType: "image/x-test", CacheControl: "max-age=7", ContentLanguage: "de", Metadata: map[string]string{"owner": "Jürgen"}}
			if name == "zipped" {
				options.ContentEncoding = "gzip"
			}
			if name != "usual" {
				options.BeforeWrite = cheaper
			}
			require.NoError(t, bucket.WriteAll(t.Context(), name, content, &options))
			before[name], err = bucket.Attributes(t.Context(), name)
			require.NoError(t, err)
		}
		check := func(encrypted bool) {
			for name := range contents {
				a, err := bucket.Attributes(t.Context(), name)
				require.NoError(t, err)
				delete(a.Metadata, blobstorage.MetadataKey)
				b := before[name]
				require.Equal(t, []any{b.ContentType, b.CacheControl, b.ContentLanguage, b.ContentEncoding, b.Metadata, classOf(b)},
					[]any{a.ContentType, a.CacheControl, a.ContentLanguage, a.ContentEncoding, a.Metadata, classOf(a)}, name)
				stored, err := bucket.NewReader(undecoded(t.Context()), name, asStored)
				require.NoError(t, err)
				got := new(bytes.Buffer)
				_, err = got.ReadFrom(stored)
				require.NoError(t, errors.Join(err, stored.Close()))
				if encrypted {
					require.False(t, bytes.Contains(got.Bytes(), marker), name)
				} else {
					require.True(t, bytes.Equal(contents[name], got.Bytes()), name)
				}
			}
		}
		old, renewed := filepath.Join(t.TempDir(), "old.key"), filepath.Join(t.TempDir(), "new.key")
		require.NoError(t, errors.Join(local.Generate(old), local.Generate(renewed)))
		for _, arguments := range [][]string{
			{"encrypt", "-k", "local:" + old, "--in-place", place},
			{"verify", "-k", "local:" + old, place},
			{"rewrap", "-k", "local:" + old, "--to", "local:" + renewed, "--in-place", place},
			{"verify", "-k", "local:" + renewed, place},
		} {
			_, stderr, _, err := execute(t, arguments...)
			require.NoError(t, err, stderr)
			check(true)
		}
		one := strings.Replace(place, "/?", "/large?", 1)
		if one == place {
			one += "large"
		}
		part, stderr, _, err := execute(t, "cat", "-k", "local:"+renewed, "--range", "17000000-17000099", one)
		require.NoError(t, err, stderr)
		require.Equal(t, string(contents["large"][17000000:17000100]), part)
		_, stderr, _, err = execute(t, "decrypt", "-k", "local:"+renewed, "--in-place", place)
		require.NoError(t, err, stderr)
		check(false)
	})
}

// An object of GCS or Azure that was changed meanwhile, or is there already, is not overwritten.
// One whose content fails is not stored.
func TestCloudsRefuse(t *testing.T) {
	inEachCloud(t, func(t *testing.T, place string) {
		p, err := openBucket(t.Context(), place)
		require.NoError(t, err)
		defer p.Close()
		b := p.objects.(*blobObjects)
		require.NoError(t, b.bucket.WriteAll(t.Context(), "a", []byte("before"), nil))
		s, err := p.read(t.Context(), "a")
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, b.bucket.WriteAll(t.Context(), "a", []byte("meanwhile"), nil))
		require.ErrorIs(t, b.putBlob(t.Context(), "a", s.opened, strings.NewReader("ours"), true, false), pikokms.ErrChanged)
		require.ErrorIs(t, b.putBlob(t.Context(), "a", s.opened, strings.NewReader("ours"), false, false), fs.ErrExist)
		got, err := b.bucket.ReadAll(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, "meanwhile", string(got))
		failing := iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("some text")))
		require.ErrorIs(t, b.putBlob(t.Context(), "b", s.opened, failing, false, false), iotest.ErrTimeout)
		exists, err := b.bucket.Exists(context.WithoutCancel(t.Context()), "b")
		require.NoError(t, err)
		require.False(t, exists)
	})
}
