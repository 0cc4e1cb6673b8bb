// Package cloudtest gives tests a bucket in each cloud that the environment names.
package cloudtest

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // opens azblob URLs
	_ "gocloud.dev/blob/gcsblob"   // opens gs URLs
	"google.golang.org/api/iterator"
)

// sizeKey is transfer.HeaderSizeKey as gocloud.dev stores it in Azure.
const sizeKey = "pikokms__0x2d__header__0x2d__size"

// variables has the environment variables that hold the URL of a bucket in which tests may write,
// such as one of fake-gcs-server or Azurite. The clouds' own variables say what the URL leaves out,
// such as credentials.
var variables = map[string]string{"GCS": "PIKOKMS_GCS_URL", "Azure": "PIKOKMS_AZURE_URL"}

// Cloud is a place in a cloud, and the cloud's own client.
type Cloud struct {
	Place  string                // its URL
	Prefix string                // of the names of its objects
	GCS    *storage.BucketHandle // nil in Azure
	Azure  *container.Client     // nil in GCS
}

// InEach runs a test with a place in GCS and one in Azure.
func InEach(t *testing.T, test func(t *testing.T, c Cloud)) {
	for name, variable := range variables {
		t.Run(name, func(t *testing.T) {
			url := os.Getenv(variable)
			if url == "" {
				t.Skipf("skipped: %s names no bucket", variable)
			}
			address, query, _ := strings.Cut(url, "?")
			address = strings.TrimSuffix(address, "/") + "/"
			if query != "" {
				query = "?" + query
			}
			c := Cloud{Prefix: strings.ToLower(rand.Text()) + "/"}
			c.Place = address + c.Prefix + query
			b, err := blob.OpenBucket(t.Context(), strings.TrimSuffix(address, "/")+query)
			require.NoError(t, err)
			t.Cleanup(func() { _ = b.Close() })
			var gcs *storage.Client
			switch {
			case b.As(&gcs):
				_, bucket, _ := strings.Cut(strings.TrimSuffix(address, "/"), "://")
				c.GCS = gcs.Bucket(bucket)
				if _, err := c.GCS.Attrs(t.Context()); errors.Is(err, storage.ErrBucketNotExist) {
					require.NoError(t, c.GCS.Create(t.Context(), "test", nil))
				}
			case b.As(&c.Azure):
				_, err := c.Azure.Create(t.Context(), nil)
				if !bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
					require.NoError(t, err)
				}
			}
			test(t, c)
		})
	}
}

// At returns the place of one object.
func (c Cloud) At(name string) string {
	address, query, hasQuery := strings.Cut(c.Place, "?")
	if hasQuery {
		query = "?" + query
	}
	return address + name + query
}

// Metadata is metadata as applications write it. In the metadata of gocloud.dev these names and
// values would be escaped.
var Metadata = map[string]string{
	"ownerId": "Juergen", "Mixed_Case": "My photo (1)/2.jpg", "percent": "100%", "escaped": "a%2Fb", "plus": "1+1", "json": `{"a":"b"}`, "under__0x2d__score": "x",
}

// Put stores an object with all that the cloud, or its emulator, can keep.
func (c Cloud) Put(t *testing.T, name string, content []byte, encoding string) {
	t.Helper()
	if c.GCS != nil {
		w := c.GCS.Object(c.Prefix + name).NewWriter(t.Context())
		w.Metadata, w.ContentType, w.CacheControl, w.ContentLanguage, w.ContentEncoding = Metadata, "image/x-test", "max-age=7", "de", encoding
		w.ContentDisposition = `attachment; filename="a b.txt"`
		w.StorageClass, w.CustomTime = "NEARLINE", time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)
		_, err := w.Write(content)
		require.NoError(t, errors.Join(err, w.Close()), name)
		return
	}
	all := make(map[string]*string)
	for name, value := range Metadata {
		all[name] = &value
	}
	text := func(s string) *string { return &s }
	tier, sum := azure.AccessTierCool, md5.Sum(content)
	_, err := c.Azure.NewBlockBlobClient(c.Prefix+name).UploadStream(t.Context(), bytes.NewReader(content), &blockblob.UploadStreamOptions{
		Metadata: all, AccessTier: &tier, Tags: map[string]string{"team": "x y", "Cost": "1+1"}, HTTPHeaders: &azure.HTTPHeaders{
			BlobContentType: text("image/x-test"), BlobCacheControl: text("max-age=7"), BlobContentLanguage: text("de"), BlobContentEncoding: text(encoding),
			BlobContentDisposition: text(`attachment; filename="a b.txt"`), BlobContentMD5: sum[:],
		},
	})
	require.NoError(t, err, name)
}

// State returns an object's content, as it is stored, and its properties, both from the cloud's own
// client.
func (c Cloud) State(t *testing.T, name string) (content []byte, properties map[string]any) {
	t.Helper()
	if c.GCS != nil {
		a, err := c.GCS.Object(c.Prefix + name).Attrs(t.Context())
		require.NoError(t, err, name)
		r, err := c.GCS.Object(c.Prefix + name).ReadCompressed(true).NewReader(t.Context())
		require.NoError(t, err, name)
		content, err = io.ReadAll(r)
		require.NoError(t, errors.Join(err, r.Close()), name)
		delete(a.Metadata, "pikokms-header-size")
		return content, map[string]any{
			"type": a.ContentType, "cache": a.CacheControl, "language": a.ContentLanguage, "encoding": a.ContentEncoding,
			"disposition": a.ContentDisposition, "metadata": a.Metadata, "class": a.StorageClass, "time": a.CustomTime.UTC(), "acl": a.ACL,
		}
	}
	blob := c.Azure.NewBlobClient(c.Prefix + name)
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
	sum, encoding := md5.Sum(content), ""
	if p.ContentEncoding != nil {
		encoding = *p.ContentEncoding
	}
	return content, map[string]any{
		"type": *p.ContentType, "cache": *p.CacheControl, "language": *p.ContentLanguage, "encoding": encoding,
		"disposition": *p.ContentDisposition, "metadata": c.listedMetadata(t, name), "tier": *p.AccessTier, "tags": all,
		"the sum is that of the content": bytes.Equal(sum[:], p.ContentMD5),
	}
}

// listedMetadata returns the metadata of a blob with its names as they are stored. It takes them
// from the text of a listing, since net/http and the client change their case.
func (c Cloud) listedMetadata(t *testing.T, name string) map[string]string {
	name = c.Prefix + name
	var answer *http.Response
	page, err := c.Azure.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
		Prefix: &name, Include: container.ListBlobsInclude{Metadata: true},
	}).NextPage(azurepolicy.WithCaptureResponse(t.Context(), &answer))
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(text), "<Metadata>")
	metadata := make(map[string]string)
	for lower, value := range page.Segment.BlobItems[0].Metadata {
		if i := strings.Index(strings.ToLower(after), "<"+lower+">"); lower != sizeKey {
			metadata[after[i+1:i+1+len(lower)]] = *value
		}
	}
	return metadata
}

// Names returns the names of all objects of a place.
func (c Cloud) Names(t *testing.T) (names []string) {
	if c.GCS != nil {
		objects := c.GCS.Objects(t.Context(), &storage.Query{Prefix: c.Prefix})
		for {
			a, err := objects.Next()
			if err == iterator.Done {
				return names
			}
			require.NoError(t, err)
			names = append(names, strings.TrimPrefix(a.Name, c.Prefix))
		}
	}
	for pager := c.Azure.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &c.Prefix}); pager.More(); {
		page, err := pager.NextPage(t.Context())
		require.NoError(t, err)
		for _, item := range page.Segment.BlobItems {
			names = append(names, strings.TrimPrefix(*item.Name, c.Prefix))
		}
	}
	return names
}
