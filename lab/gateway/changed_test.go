package gateway

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"
)

// marker is in the content of each request, and must not be in anything that is stored.
const marker = "a-secret-that-nobody-stores"

// pick returns one of some values.
func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// oddRequest makes a request that is valid but for what was changed in it.
func oddRequest(r *rand.Rand, base string, ids []string) *http.Request {
	content := bytes.Repeat([]byte(marker), r.IntN(5000))
	key := pick(r, "a", "a/b", "dir/", ".pikokms/uploads/x", "a//b", "a/../b", "ü", strings.Repeat("k", 300))
	query := make(url.Values)
	method := pick(r, http.MethodGet, http.MethodPut, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead)
	headers := make(http.Header)
	some := func(name string, values ...string) {
		if r.IntN(8) == 0 { // of so many that some requests are in order
			headers.Set(name, pick(r, values...))
		}
	}
	some("Range", "bytes=0-0", "bytes=5-1", "bytes=-5", "bytes=99999999-", "bytes=0-18446744073709551616", "x")
	some("X-Amz-Checksum-Crc32", "AAAAAA==", "x", "")
	some("X-Amz-Checksum-Sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "AAAA")
	some("X-Amz-Sdk-Checksum-Algorithm", "CRC32", "NONE")
	some("X-Amz-Checksum-Mode", "ENABLED", "x")
	some("Content-Md5", "1B2M2Y8AsgTpgAmY7PhCfg==", "x")
	some("If-Match", "*", `"x-1"`, "x")
	some("If-None-Match", "*", `"x-1"`)
	some("X-Amz-Meta-Pikokms-Header-Size", "1")
	some("X-Amz-Meta-A", strings.Repeat("m", r.IntN(3000)), "\x80")
	some("X-Amz-Copy-Source", "data/a", "/data/a?versionId=x", "data/.pikokms/uploads", "data", "%zz")
	some("X-Amz-Copy-Source-Range", "bytes=0-1", "bytes=9-", "x")
	some("X-Amz-Metadata-Directive", "REPLACE", "x")
	some("X-Amz-Tagging", "a=b", "a=b&a=c", "%")
	some("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256")
	some("X-Amz-Decoded-Content-Length", "5", "-1", "99999999999999999999", "x")
	if r.IntN(3) == 0 {
		query.Set("uploadId", pick(r, append(ids, "", "x", "../../a", "00000000-0000-0000-0000-000000000000")...))
		if r.IntN(2) == 0 {
			query.Set("partNumber", pick(r, "1", "0", "-1", "10000", "10001", "x"))
		}
		if method == http.MethodPost {
			content = []byte(pick(r, "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>",
				"<CompleteMultipartUpload><Part><PartNumber>99999999999</PartNumber></Part></CompleteMultipartUpload>", "<CompleteMultipartUpload/>", "<", ""))
		}
	}
	for range r.IntN(2) {
		query.Set(pick(r, "uploads", "partNumber", "versionId", "list-type", "max-keys", "continuation-token", "start-after", "prefix", "delete", "select", "restore", "attributes", "acl"), pick(r, "", "1", "2", "x", ".pikokms/"))
	}
	path := "/data/" + key
	if r.IntN(8) == 0 {
		path = "/data"
	}
	request, err := http.NewRequest(method, base+(&url.URL{Path: path, RawQuery: query.Encode()}).String(), bytes.NewReader(content))
	if err != nil {
		return nil
	}
	request.Header = headers
	return request
}

// seed makes the requests. It is the same in each run before a change lands, so that no change fails
// for a request that it has nothing to do with.
var seed = flag.Uint64("seed", 1, "the seed of the requests that are changed")

// TestChangedRequests sends requests that are signed and odd. No answer is an internal error, the
// gateway goes on, and nothing is stored plain.
func TestChangedRequests(t *testing.T) {
	t.Logf("seed %d", *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	base, folder := serveEncrypted(t)
	client := &http.Client{Timeout: time.Minute}
	send := func(request *http.Request) (int, string) {
		t.Helper()
		const unsigned = "UNSIGNED-PAYLOAD"
		request.Header.Set("X-Amz-Content-Sha256", unsigned)
		signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
		require.NoError(t, signer.SignHTTP(t.Context(), aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, request, unsigned, "s3", region, time.Now()))
		response, err := client.Do(request)
		if err != nil {
			return 0, err.Error()
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		return response.StatusCode, string(body)
	}
	request, err := http.NewRequest(http.MethodPut, base+"/data", nil)
	require.NoError(t, err)
	status, body := send(request)
	require.Equal(t, http.StatusOK, status, body)
	request, err = http.NewRequest(http.MethodPut, base+"/data/kept", strings.NewReader("kept")) // so that no request deletes the bucket
	require.NoError(t, err)
	status, body = send(request)
	require.Equal(t, http.StatusOK, status, body)
	var ids []string
	for range 3 {
		request, err := http.NewRequest(http.MethodPost, base+"/data/a?uploads=", nil)
		require.NoError(t, err)
		status, body := send(request)
		require.Equal(t, http.StatusOK, status, body)
		_, rest, _ := strings.Cut(body, "<UploadId>")
		id, _, _ := strings.Cut(rest, "</UploadId>")
		ids = append(ids, id)
	}
	answers := make(map[int]int)
	for range 2000 {
		request := oddRequest(r, base, ids)
		if request == nil {
			continue
		}
		text := fmt.Sprint(request.Method, " ", request.URL, " ", request.Header)
		status, body := send(request)
		answers[status]++
		if status >= 500 && !slices.Contains([]int{http.StatusNotImplemented, http.StatusServiceUnavailable}, status) {
			t.Errorf("%d for %s: %s", status, text, body)
		}
	}
	t.Log(answers)
	require.NotZero(t, answers[http.StatusOK])
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		require.NotContains(t, string(content), marker, path)
		return err
	}))
}
