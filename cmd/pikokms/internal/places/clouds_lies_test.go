package places

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azurepolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"google.golang.org/api/option"

	"piko.sh/pikokms/blobstorage"
)

// lyingCloud answers as GCS and Azure do, except for listings and for the answers to uploads.
type lyingCloud struct {
	parts     map[string]listedPart
	confirmed bool
	denied    string // the answer to everything
	metadata  string // in listings of Azure
}

// listedPart is a part of a listing.
type listedPart struct {
	names []string
	next  string
}

func (l *lyingCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	query := r.URL.Query()
	switch {
	case l.denied != "":
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, l.denied)
	case query.Get("comp") == "list":
		part := l.parts[query.Get("marker")]
		fmt.Fprint(w, "<EnumerationResults><Blobs>")
		for _, name := range part.names {
			fmt.Fprint(w, "<Blob><Name>")
			_ = xml.EscapeText(w, []byte(name)) // the client reads all
			fmt.Fprint(w, "</Name><Properties><Content-Length>3</Content-Length></Properties>"+l.metadata+"</Blob>")
		}
		fmt.Fprintf(w, "</Blobs><NextMarker>%s</NextMarker></EnumerationResults>", part.next)
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/o"):
		part := l.parts[query.Get("pageToken")]
		var answer struct {
			NextPageToken string              `json:"nextPageToken,omitempty"`
			Items         []map[string]string `json:"items"`
		}
		answer.NextPageToken = part.next
		for _, name := range part.names {
			answer.Items = append(answer.Items, map[string]string{"name": name, "size": "3"})
		}
		_ = json.NewEncoder(w).Encode(answer) // the client reads all
	case r.Method == http.MethodPost && l.confirmed:
		fmt.Fprint(w, `{"name":"k","generation":"7"}`)
	case r.Method == http.MethodPost:
		fmt.Fprint(w, `{}`)
	case r.Method == http.MethodPut:
		if l.confirmed {
			w.Header().Set("ETag", `"1"`)
		}
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// open returns the objects of a bucket in the lying cloud, as the clients of both clouds see them.
func (l *lyingCloud) open(t *testing.T) map[string]bucketStore {
	t.Helper()
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	az, err := container.NewClientWithNoCredential(server.URL+"/account/bucket", &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{Retry: azurepolicy.RetryOptions{MaxRetries: -1}},
	})
	require.NoError(t, err)
	gcs, err := storage.NewClient(t.Context(), option.WithEndpoint(server.URL+"/storage/v1/"), option.WithoutAuthentication())
	require.NoError(t, err)
	t.Cleanup(func() { _ = gcs.Close() })
	return map[string]bucketStore{
		"Azure": &azureObjects{bucket: memblob.OpenBucket(nil), client: az, prefix: "p/"},
		"GCS":   &gcsObjects{bucket: memblob.OpenBucket(nil), handle: gcs.Bucket("bucket"), prefix: "p/"},
	}
}

// TestCloudListingsAreWholeOrAnError lists buckets of clouds whose listings contradict themselves.
func TestCloudListingsAreWholeOrAnError(t *testing.T) {
	first := listedPart{[]string{"p/a", "p/b"}, "2"}
	for name, parts := range map[string]map[string]listedPart{
		"the same token again":    {"": first, "2": {[]string{"p/c"}, "2"}},
		"tokens in a circle":      {"": first, "2": {[]string{"p/c"}, "3"}, "3": {[]string{"p/d"}, "2"}},
		"a part that comes again": {"": first, "2": first},
		"a name that comes again": {"": first, "2": {[]string{"p/b", "p/c"}, ""}},
		"outside of the prefix":   {"": {[]string{"p/a", "q/b"}, ""}},
		"backwards":               {"": {[]string{"p/c"}, "2"}, "2": {[]string{"p/a"}, ""}},
	} {
		for cloud, o := range (&lyingCloud{parts: parts}).open(t) {
			var err error
			n := 0
			for _, failed := range o.list(t.Context(), "") {
				if err = failed; err != nil {
					break
				}
				if n++; n > 100 {
					break
				}
			}
			if name == "backwards" && cloud == "Azure" {
				require.NoError(t, err, "accounts with folders have another order")
				continue
			}
			require.ErrorIs(t, err, blobstorage.ErrAnswer, "%s: %s", cloud, name)
		}
	}
	for cloud, o := range (&lyingCloud{parts: map[string]listedPart{"": first, "2": {nil, "3"}, "3": {[]string{"p/é", "p/\U0001F600"}, ""}}}).open(t) {
		var keys []string
		for listed, err := range o.list(t.Context(), "") {
			require.NoError(t, err)
			keys = append(keys, listed.Key)
		}
		require.Equal(t, []string{"a", "b", "é", "\U0001F600"}, keys, cloud)
	}
}

// TestCloudUploadsAreConfirmed uploads to clouds that do not say what they stored.
func TestCloudUploadsAreConfirmed(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		for cloud, o := range (&lyingCloud{confirmed: confirmed}).open(t) {
			for _, size := range []int{0, 5, 300_000} {
				err := o.put(t.Context(), "k", &opened{Length: int64(size)}, strings.NewReader(strings.Repeat("x", size)), true)
				if confirmed {
					require.NoError(t, err, cloud)
				} else {
					require.ErrorIs(t, err, blobstorage.ErrAnswer, cloud)
				}
			}
		}
	}
}

// TestCloudErrorsAreOneLine asks clouds that deny everything.
func TestCloudErrorsAreOneLine(t *testing.T) {
	denied := &lyingCloud{denied: "<?xml version=\"1.0\"?><Error><Code>AuthorizationFailure</Code><Message>This request is not authorized.\nRequestId:1\nTime:2</Message></Error>"}
	for cloud, o := range denied.open(t) {
		_, statErr := o.stat(t.Context(), "k")
		_, readErr := o.read(t.Context(), "k")
		_, openErr := o.open(t.Context(), "k")
		putErr := o.put(t.Context(), "k", &opened{Length: 3}, strings.NewReader("abc"), false)
		all := []error{statErr, readErr, openErr, putErr}
		for _, err := range o.list(t.Context(), "") {
			all = append(all, err)
		}
		require.Len(t, all, 5)
		for _, err := range all {
			require.Error(t, err)
			require.NotContains(t, err.Error(), "\n")
			require.Contains(t, err.Error(), "403", cloud)
			require.NotContains(t, err.Error(), "-----")
		}
		if cloud == "Azure" {
			require.EqualError(t, putErr, "Azure: 403 AuthorizationFailure: This request is not authorized.")
		}
	}
}

// TestSmallUploadsTakeLittleMemory uploads many small objects: the client of GCS takes 16 MiB for
// each unless it is told otherwise.
func TestSmallUploadsTakeLittleMemory(t *testing.T) {
	const n = 100
	all := (&lyingCloud{confirmed: true}).open(t)
	for _, cloud := range slices.Sorted(maps.Keys(all)) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			require.NoError(t, all[cloud].put(t.Context(), "k", &opened{Length: 5}, strings.NewReader("hello"), true))
		}
		runtime.ReadMemStats(&after)
		each := (after.TotalAlloc - before.TotalAlloc) / n
		t.Logf("%s: %d KiB for each upload", cloud, each>>10)
		require.Less(t, each, uint64(1<<20), cloud)
	}
}

// TestMetadataNamesInAzure replaces a blob whose metadata has names in upper and lower case.
// Net/http changes the case of such names.
func TestMetadataNamesInAzure(t *testing.T) {
	l := &lyingCloud{
		parts:    map[string]listedPart{"": {[]string{"p/k"}, ""}},
		metadata: "<Metadata><ownerId>a%2Fb</ownerId><Pikokms__0x2d__header__0x2d__size>9</Pikokms__0x2d__header__0x2d__size></Metadata>",
	}
	b := l.open(t)["Azure"].(*azureObjects)
	from := &opened{azure: &azureBlob{container: b.client, name: "p/k"}, attributes: &blob.Attributes{Metadata: map[string]string{
		"Ownerid": "a%2Fb", "Pikokms__0x2d__header__0x2d__size": "9",
	}}}
	got, err := azureMetadata(t.Context(), from, strings.NewReader(""))
	require.NoError(t, err)
	value := "a%2Fb"
	require.Equal(t, map[string]*string{"ownerId": &value}, got)
}
