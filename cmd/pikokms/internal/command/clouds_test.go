package command

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"cloud.google.com/go/storage"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/iterator"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider/local"
)

// cloudVariables name environment variables with the URL of a bucket in which tests may write, such
// as one of fake-gcs-server or Azurite. What the URL does not say, the clouds' own variables say.
var cloudVariables = map[string]string{"GCS": "PIKOKMS_GCS_URL", "Azure": "PIKOKMS_AZURE_URL"}

// cloud is a place in a cloud, and the cloud's own client.
type cloud struct {
	place string
	gcs   *gcsObjects   // nil in Azure
	azure *azureObjects // nil in GCS
}

// inEachCloud runs a test with a place in GCS and one in Azure.
func inEachCloud(t *testing.T, test func(t *testing.T, c cloud)) {
	for name, variable := range cloudVariables {
		t.Run(name, func(t *testing.T) {
			url := os.Getenv(variable)
			if url == "" {
				t.Skipf("skipped: %s names no bucket", variable)
			}
			address, query, _ := strings.Cut(url, "?")
			c := cloud{place: strings.TrimSuffix(address, "/") + "/" + strings.ToLower(rand.Text()) + "/"}
			if query != "" {
				c.place += "?" + query
			}
			p, err := openBucket(t.Context(), c.place)
			require.NoError(t, err)
			t.Cleanup(func() { _ = p.Close() })
			switch b := p.objects.(type) {
			case *gcsObjects:
				c.gcs = b
				if _, err := b.handle.Attrs(t.Context()); errors.Is(err, storage.ErrBucketNotExist) {
					require.NoError(t, b.handle.Create(t.Context(), "test", nil))
				}
			case *azureObjects:
				c.azure = b
				_, err := b.client.Create(t.Context(), nil)
				if !isStatus(err, http.StatusConflict) { // it is there
					require.NoError(t, err)
				}
			}
			test(t, c)
		})
	}
}

// at returns the place of one object.
func (c cloud) at(name string) string {
	address, query, hasQuery := strings.Cut(c.place, "?")
	if hasQuery {
		query = "?" + query
	}
	return address + name + query
}

// metadata are in the words of applications, and not in those of gocloud.dev.
var metadata = map[string]string{
	"ownerId": "Juergen", "Mixed_Case": "My photo (1)/2.jpg", "percent": "100%", "escaped": "a%2Fb", "plus": "1+1", "json": `{"a":"b"}`, "under__0x2d__score": "x",
}

// put stores an object with all that the cloud, or its emulator, can keep.
func (c cloud) put(t *testing.T, name string, content []byte, encoding string) {
	t.Helper()
	if c.gcs != nil {
		w := c.gcs.object(name).NewWriter(t.Context())
		w.Metadata, w.ContentType, w.CacheControl, w.ContentLanguage, w.ContentEncoding = metadata, "image/x-test", "max-age=7", "de", encoding
		w.ContentDisposition = `attachment; filename="a b.txt"`
		w.StorageClass, w.CustomTime = "NEARLINE", time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)
		_, err := w.Write(content)
		require.NoError(t, errors.Join(err, w.Close()), name)
		return
	}
	all := make(map[string]*string)
	for name, value := range metadata {
		all[name] = &value
	}
	text := func(s string) *string { return &s }
	tier, sum := azure.AccessTierCool, md5.Sum(content)
	_, err := c.azure.client.NewBlockBlobClient(c.azure.prefix+name).UploadStream(t.Context(), bytes.NewReader(content), &blockblob.UploadStreamOptions{
		Metadata: all, AccessTier: &tier, Tags: map[string]string{"team": "x y", "Cost": "1+1"}, HTTPHeaders: &azure.HTTPHeaders{
			BlobContentType: text("image/x-test"), BlobCacheControl: text("max-age=7"), BlobContentLanguage: text("de"), BlobContentEncoding: text(encoding),
			BlobContentDisposition: text(`attachment; filename="a b.txt"`), BlobContentMD5: sum[:],
		},
	})
	require.NoError(t, err, name)
}

// state returns what a cloud's own client says of an object. The content is as it is stored.
func (c cloud) state(t *testing.T, name string) (content []byte, properties map[string]any) {
	t.Helper()
	if c.gcs != nil {
		a, err := c.gcs.object(name).Attrs(t.Context())
		require.NoError(t, err, name)
		r, err := c.gcs.object(name).ReadCompressed(true).NewReader(t.Context())
		require.NoError(t, err, name)
		content, err = io.ReadAll(r)
		require.NoError(t, errors.Join(err, r.Close()), name)
		delete(a.Metadata, "pikokms-header-size")
		return content, map[string]any{
			"type": a.ContentType, "cache": a.CacheControl, "language": a.ContentLanguage, "encoding": a.ContentEncoding,
			"disposition": a.ContentDisposition, "metadata": a.Metadata, "class": a.StorageClass, "time": a.CustomTime.UTC(), "acl": a.ACL,
		}
	}
	blob := c.azure.blob(name)
	p, err := blob.GetProperties(t.Context(), nil)
	require.NoError(t, err, name)
	tags, err := blob.GetTags(t.Context(), nil)
	require.NoError(t, err, name)
	all := make(map[string]string)
	for _, tag := range tags.BlobTagSet {
		all[*tag.Key] = *tag.Value
	}
	r, err := blob.DownloadStream(azurepolicy.WithHTTPHeader(t.Context(), http.Header{"Accept-Encoding": {"identity"}}), nil)
	require.NoError(t, err, name)
	content, err = io.ReadAll(r.Body)
	require.NoError(t, errors.Join(err, r.Body.Close()), name)
	sum := md5.Sum(content)
	return content, map[string]any{
		"type": *p.ContentType, "cache": *p.CacheControl, "language": *p.ContentLanguage, "encoding": textOf(p.ContentEncoding),
		"disposition": *p.ContentDisposition, "metadata": c.listedMetadata(t, name), "tier": *p.AccessTier, "tags": all,
		"the sum is that of the content": bytes.Equal(sum[:], p.ContentMD5),
	}
}

// listedMetadata returns the metadata of a blob as the cloud has them, from the text of a listing:
// net/http and the client change names.
func (c cloud) listedMetadata(t *testing.T, name string) map[string]string {
	name = c.azure.prefix + name
	var answer *http.Response
	page, err := c.azure.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
		Prefix: &name, Include: container.ListBlobsInclude{Metadata: true},
	}).NextPage(azurepolicy.WithCaptureResponse(t.Context(), &answer))
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(text), "<Metadata>")
	found := make(map[string]string)
	for lower, value := range page.Segment.BlobItems[0].Metadata {
		if i := strings.Index(strings.ToLower(after), "<"+lower+">"); lower != azureSizeKey {
			found[after[i+1:i+1+len(lower)]] = *value
		}
	}
	return found
}

// names returns the names of all objects of a place.
func (c cloud) names(t *testing.T) (names []string) {
	if c.gcs != nil {
		objects := c.gcs.handle.Objects(t.Context(), &storage.Query{Prefix: c.gcs.prefix})
		for {
			a, err := objects.Next()
			if err == iterator.Done {
				return names
			}
			require.NoError(t, err)
			names = append(names, strings.TrimPrefix(a.Name, c.gcs.prefix))
		}
	}
	for pager := c.azure.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &c.azure.prefix}); pager.More(); {
		page, err := pager.NextPage(t.Context())
		require.NoError(t, err)
		for _, item := range page.Segment.BlobItems {
			names = append(names, strings.TrimPrefix(*item.Name, c.azure.prefix))
		}
	}
	return names
}

// Objects in GCS and Azure are encrypted, moved and decrypted in place, whatever their names are,
// and keep what they have besides content.
func TestCloudsInPlace(t *testing.T) {
	inEachCloud(t, func(t *testing.T, c cloud) {
		marker := []byte("PLAINTEXT-MARKER ")
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, err := z.Write(bytes.Repeat(marker, 5000))
		require.NoError(t, errors.Join(err, z.Close()))
		contents := map[string][]byte{"a.txt": bytes.Repeat(marker, 5000), "empty": {}, "zipped": zipped.Bytes(), "large": bytes.Repeat(marker, 20<<20/len(marker))}
		for _, name := range []string{
			`100%`, `what?`, `a#b`, `"quoted"`, `%41`, `ü & + x.txt`, "a__0x2b__b", "a+b", "a__0x2f__b", "a/b", "sp ace/", "..x", "x..", "a;b=c", strings.Repeat("n", 900), "__0x41__", "a//b",
		} {
			contents[name] = append(bytes.Clone(marker), name...)
		}
		if c.gcs != nil {
			contents["x/../y"] = append(bytes.Clone(marker), "x/../y"...)
		}
		before := make(map[string]map[string]any)
		for name, content := range contents {
			encoding := ""
			if name == "zipped" {
				encoding = "gzip"
			}
			c.put(t, name, content, encoding)
			_, before[name] = c.state(t, name)
			require.Equal(t, metadata, before[name]["metadata"])
		}
		c.put(t, "folder/", nil, "") // as consoles of clouds make them
		check := func(encrypted bool) {
			require.ElementsMatch(t, append(slices.Collect(maps.Keys(contents)), "folder/"), c.names(t))
			for name, content := range contents {
				stored, after := c.state(t, name)
				require.Equal(t, before[name], after, name)
				if encrypted {
					require.False(t, bytes.Contains(stored, marker), name)
					require.Greater(t, len(stored), len(content), name)
				} else {
					require.True(t, bytes.Equal(content, stored), name)
				}
			}
		}
		old, renewed := filepath.Join(t.TempDir(), "old.key"), filepath.Join(t.TempDir(), "new.key")
		require.NoError(t, errors.Join(local.Generate(old), local.Generate(renewed)))
		for _, arguments := range [][]string{
			{"encrypt", "-k", "local:" + old, "--in-place", c.place},
			{"verify", "-k", "local:" + old, c.place},
			{"rewrap", "-k", "local:" + old, "--to", "local:" + renewed, "--in-place", c.place},
			{"verify", "-k", "local:" + renewed, c.place},
		} {
			_, stderr, _, err := execute(t, arguments...)
			require.NoError(t, err, stderr)
			require.Contains(t, stderr, fmt.Sprintf("%d objects", len(contents)), arguments)
			check(true)
		}
		part, stderr, _, err := execute(t, "cat", "-k", "local:"+renewed, "--range", "17000000-17000099", c.at("large"))
		require.NoError(t, err, stderr)
		require.Equal(t, string(contents["large"][17000000:17000100]), part)
		out := t.TempDir()
		_, stderr, _, err = execute(t, "decrypt", "-k", "local:"+renewed, "-o", out, "--include", "a__*", c.place)
		require.NoError(t, err, stderr)
		got, err := os.ReadFile(filepath.Join(out, "a__0x2b__b"))
		require.NoError(t, err)
		require.Equal(t, contents["a__0x2b__b"], got)
		_, stderr, _, err = execute(t, "decrypt", "-k", "local:"+renewed, "--in-place", c.place)
		require.NoError(t, err, stderr)
		check(false)
	})
}

// An object of GCS or Azure that was changed meanwhile, or is there already, is not overwritten.
// One whose content fails is not stored.
func TestCloudsRefuse(t *testing.T) {
	inEachCloud(t, func(t *testing.T, c cloud) {
		p, err := openBucket(t.Context(), c.place)
		require.NoError(t, err)
		defer p.Close()
		c.put(t, "a", []byte("before"), "")
		s, err := p.read(t.Context(), "a")
		require.NoError(t, err)
		defer s.Close()
		opened, err := p.objects.open(t.Context(), "a")
		require.NoError(t, err)
		c.put(t, "a", []byte("meanwhile"), "")
		require.ErrorIs(t, s.replace(t.Context(), strings.NewReader("ours")), pikokms.ErrChanged)
		require.ErrorIs(t, p.objects.(bucket).put(t.Context(), "a", s.opened, strings.NewReader("ours"), false), fs.ErrExist)
		got, _ := c.state(t, "a")
		require.Equal(t, "meanwhile", string(got))
		first := make([]byte, 6)
		_, err = opened.ReadAt(first, 0)
		require.NoError(t, err)
		require.Equal(t, "before", string(first), "what was fetched already")
		for _, size := range []int{9, 20 << 20} {
			failing := iotest.TimeoutReader(bytes.NewReader(make([]byte, size)))
			require.ErrorIs(t, p.objects.(bucket).put(t.Context(), "b", s.opened, failing, false), iotest.ErrTimeout)
			cut := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(io.ErrUnexpectedEOF))
			require.ErrorIs(t, p.objects.(bucket).put(t.Context(), "b", s.opened, cut, false), io.ErrUnexpectedEOF)
			_, err = p.objects.stat(context.WithoutCancel(t.Context()), "b")
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		require.NotContains(t, err.Error(), "\n")
		_, err = p.objects.read(t.Context(), "b")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NotContains(t, err.Error(), "\n")
		require.NoError(t, p.objects.(bucket).put(t.Context(), "b", s.opened, strings.NewReader("ours"), true))
	})
}

// Ranges of an object that was replaced give the old one or fail.
func TestCloudsReplacedWhileOpen(t *testing.T) {
	inEachCloud(t, func(t *testing.T, c cloud) {
		p, err := openBucket(t.Context(), c.place)
		require.NoError(t, err)
		defer p.Close()
		c.put(t, "a", bytes.Repeat([]byte("before"), 10_000), "")
		opened, err := p.objects.open(t.Context(), "a")
		require.NoError(t, err)
		require.EqualValues(t, 60_000, opened.Size())
		c.put(t, "a", bytes.Repeat([]byte("behind"), 10_000), "")
		_, err = opened.ReadAt(make([]byte, 6), 30_000)
		require.ErrorIs(t, err, pikokms.ErrChanged)
		require.NoError(t, opened.Close())
		c.put(t, "empty", nil, "")
		opened, err = p.objects.open(t.Context(), "empty")
		require.NoError(t, err)
		require.Zero(t, opened.Size())
	})
}
