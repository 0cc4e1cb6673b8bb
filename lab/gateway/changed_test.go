package gateway

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var changed = flag.Int("gateway.changed", 2000, "how many changed requests TestChangedRequests sends")

// seed makes the requests. It is the same in each run before a change lands, so that no change fails
// for a request that it has nothing to do with.
var seed = flag.Uint64("seed", 1, "the seed of the requests that are changed")

// marker is in the content of each request, and must not be in anything that is stored.
const marker = "a-secret-that-nobody-stores"

// pick returns one of some values.
func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// target is what changed requests can refer to.
type target struct{ uploads, tags []string }

// changedRequest makes a request that is right but for what was changed in it.
func changedRequest(r *rand.Rand, at target) *request {
	q := &request{method: pick(r, "GET", "PUT", "PUT", "PUT", "POST", "POST", "DELETE", "HEAD"), bucket: bucket, header: make(http.Header), query: make(url.Values)}
	q.key = pick(r, "a", "a/b", "dir/", ".pikokms/uploads/x", "a//b", "a/../b", "ü", "a%00b", strings.Repeat("k", 300), "a b+c")
	q.content = bytes.Repeat([]byte(marker), r.IntN(5000))
	some := func(name string, values ...string) {
		if r.IntN(6) == 0 {
			q.header.Set(name, pick(r, values...))
		}
	}
	some("Range", "bytes=0-0", "bytes=5-1", "bytes=-5", "bytes=99999999-", "bytes=0-18446744073709551616", "x")
	some("X-Amz-Checksum-Crc32", "AAAAAA==", "x", "")
	some("X-Amz-Checksum-Sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "AAAA")
	some("X-Amz-Checksum-Type", "COMPOSITE", "FULL_OBJECT", "x")
	some("X-Amz-Checksum-Algorithm", "CRC32", "SHA256", "XXHASH3", "x")
	some("X-Amz-Sdk-Checksum-Algorithm", "CRC32", "NONE")
	some("X-Amz-Checksum-Mode", "ENABLED", "x")
	some("Content-Md5", "1B2M2Y8AsgTpgAmY7PhCfg==", "x")
	some("Content-Type", "application/xml", "multipart/form-data; boundary=x", "\x80")
	some("Content-Encoding", "gzip", "aws-chunked", "aws-chunked,gzip")
	some("If-Match", "*", `"x-1"`, "x")
	some("If-None-Match", "*", `"x-1"`)
	some("If-Modified-Since", "Mon, 01 Jan 2035 00:00:00 GMT", "x")
	some("X-Amz-Meta-Pikokms-Header-Size", "1")
	some("X-Amz-Meta-A", strings.Repeat("m", r.IntN(3000)), "\x80")
	some("X-Amz-Copy-Source", "data/a", "/data/a?versionId=x", "data/.pikokms/uploads", "data", "%zz", "data/a/../b", "other/a")
	some("X-Amz-Copy-Source-Range", "bytes=0-1", "bytes=9-", "x", "bytes=0-99999999999")
	some("X-Amz-Metadata-Directive", "REPLACE", "x")
	some("X-Amz-Tagging", "a=b", "a=b&a=c", "%")
	some("X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256")
	some("X-Amz-Decoded-Content-Length", "5", "-1", "99999999999999999999", "x", "0")
	some("X-Amz-Object-Lock-Mode", "GOVERNANCE", "x")
	some("X-Amz-Storage-Class", "GLACIER", "x")
	some("Expect", "100-continue", "200-ok", "")
	if r.IntN(3) == 0 {
		q.key = pick(r, "up", "up", "a")
		q.query.Set("uploadId", pick(r, append(at.uploads, "", "x", "../../a", "00000000-0000-0000-0000-000000000000")...))
		if r.IntN(2) == 0 {
			q.query.Set("partNumber", pick(r, "1", "2", "0", "-1", "10000", "10001", "x", "1e3", "99999999999999999999"))
		}
		if q.method == "POST" {
			q.content = changedXML(r, at, "complete")
		}
	}
	if r.IntN(6) == 0 {
		body := pick(r, "delete", "tagging", "versioning", "object-lock", "cors", "policy", "acl", "ownershipControls", "retention", "legal-hold", "restore", "select")
		q.query.Set(body, "")
		q.content = changedXML(r, at, body)
		if body == "delete" {
			q.method, q.key = "POST", ""
		}
	}
	for range r.IntN(2) {
		q.query.Set(pick(r, "uploads", "partNumber", "versionId", "list-type", "max-keys", "continuation-token", "start-after", "prefix", "delimiter",
			"encoding-type", "max-parts", "part-number-marker", "key-marker", "upload-id-marker", "versions", "attributes", "acl", "response-content-type", "x-id"),
			pick(r, "", "1", "2", "-1", "x", ".pikokms/", "url", "\x00", strings.Repeat("q", r.IntN(60_000))))
	}
	switch r.IntN(16) {
	case 0:
		q.key = ""
	case 1: // another bucket
		q.method, q.bucket, q.key = pick(r, "PUT", "GET", "DELETE"), pick(r, "x", "b-2", "..", "UPPER", strings.Repeat("b", 70), "b\x00"), ""
		q.content = changedXML(r, at, "create")
	}
	if q.method == "GET" || q.method == "HEAD" {
		if r.IntN(10) > 0 {
			q.content = nil
		}
	} else if r.IntN(3) == 0 {
		q.chunk(r)
	}
	for range r.IntN(2) {
		q.changes = append(q.changes, pick(r, wireChanges...))
	}
	if r.IntN(8) == 0 {
		q.lengthOff = pick(r, -1, 1, 1000, -len(q.content), 1<<40)
	}
	return q
}

// bodies are right ones, by what they are for.
func (at target) bodies(of string) string {
	switch of {
	case "complete":
		return fmt.Sprintf("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part></CompleteMultipartUpload>", at.tags[0])
	case "delete":
		return "<Delete><Object><Key>a</Key></Object><Object><Key>a/b</Key><VersionId>null</VersionId></Object><Quiet>true</Quiet></Delete>"
	case "tagging":
		return "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
	case "versioning":
		return "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
	case "object-lock":
		return "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
	case "cors":
		return "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>"
	case "policy":
		return `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::data/*"}]}`
	case "acl":
		return "<AccessControlPolicy><Owner><ID>conformance</ID></Owner><AccessControlList/></AccessControlPolicy>"
	case "ownershipControls":
		return "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>"
	case "retention":
		return "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2035-01-01T00:00:00Z</RetainUntilDate></Retention>"
	case "legal-hold":
		return "<LegalHold><Status>ON</Status></LegalHold>"
	case "restore":
		return "<RestoreRequest><Days>1</Days></RestoreRequest>"
	case "select":
		return "<SelectObjectContentRequest><Expression>select *</Expression><ExpressionType>SQL</ExpressionType></SelectObjectContentRequest>"
	}
	return "<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>"
}

// changedXML returns a body with some changes.
func changedXML(r *rand.Rand, at target, of string) []byte {
	b := []byte(at.bodies(of))
	for range r.IntN(3) {
		i := r.IntN(len(b) + 1)
		j := min(len(b), i+r.IntN(30))
		switch r.IntN(10) {
		case 0:
			b = append(slices.Clone(b[:i]), b[j:]...)
		case 1:
			b = slices.Insert(b, i, slices.Clone(b[i:j])...)
		case 2:
			b = b[:i]
		case 3:
			b = slices.Insert(b, i, []byte(pick(r, "&lt;", "&x;", "<!--", "]]>", "<a>", "\x00", "\xff", "<![CDATA[", "99999999999999999999", "-1"))...)
		case 4:
			b = append([]byte(pick(r, "\xef\xbb\xbf", "\xff\xfe", `<?xml version="1.1" encoding="UTF-16"?>`, `<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>`)), b...)
		case 5:
			b = bytes.ReplaceAll(b, []byte("1"), []byte(pick(r, "0", "-1", "10001", "99999999999", "x", "")))
		case 6:
			if start, end := bytes.Index(b, []byte("<Part>")), bytes.Index(b, []byte("</Part>")); start >= 0 && end > start {
				b = slices.Insert(b, start, bytes.Repeat(b[start:end+7], r.IntN(3000))...)
			}
		case 7:
			b = append(bytes.Repeat([]byte("<a>"), r.IntN(20_000)), b...)
		case 8:
			b = append(b, marker...)
		case 9:
			b = bytes.ReplaceAll(b, []byte("<ETag>"), []byte("<ETag>"+pick(r, `"`, "&quot;", "x", strings.Repeat("e", 3000))))
		}
		if len(b) == 0 {
			break
		}
	}
	return b
}

// wireChanges change a request's lines after it was signed.
var wireChanges = []func(r *rand.Rand, lines []string) []string{
	func(r *rand.Rand, lines []string) []string { // a header twice
		line := lines[1+r.IntN(len(lines)-1)]
		return append(lines, line)
	},
	func(r *rand.Rand, lines []string) []string { // and with another value
		name, _, _ := strings.Cut(lines[1+r.IntN(len(lines)-1)], ":")
		return append(lines, name+": "+pick(r, "x", "", "0", "-1", "5"))
	},
	func(r *rand.Rand, lines []string) []string { // none of it
		i := 1 + r.IntN(len(lines)-1)
		return slices.Delete(lines, i, i+1)
	},
	func(r *rand.Rand, lines []string) []string {
		lines[0] = strings.Replace(lines[0], "HTTP/1.1", pick(r, "HTTP/1.0", "HTTP/2.0", "HTTP/1.9", "http/1.1", ""), 1)
		return lines
	},
	func(r *rand.Rand, lines []string) []string { return append(lines, "Transfer-Encoding: chunked") },
	func(r *rand.Rand, lines []string) []string {
		return append(lines, "Content-Length: "+pick(r, "0", "1", "x"))
	},
	func(r *rand.Rand, lines []string) []string {
		return append(lines, "X-"+strings.Repeat("a", r.IntN(20_000))+": "+strings.Repeat("v", r.IntN(20_000)))
	},
	func(r *rand.Rand, lines []string) []string {
		return append(lines, pick(r, "no colon", ": no name", " folded", "A\x00: b", "Connection: close", "Upgrade: h2c", "Cookie: \xff"))
	},
	func(r *rand.Rand, lines []string) []string {
		lines[0] = strings.Replace(lines[0], " /", pick(r, " //", " http://other/", " /%", " *", " /\x00", "  /"), 1)
		return lines
	},
	func(r *rand.Rand, lines []string) []string {
		i := r.IntN(len(lines))
		b := []byte(lines[i])
		b[r.IntN(len(b))] = byte(r.IntN(256))
		lines[i] = string(b)
		return lines
	},
}

// connection sends requests, by the same connection while the server keeps it.
type connection struct {
	address string
	net.Conn
	in *bufio.Reader
}

// send returns the status and the content of the answer. The status is 0 if there is none. An
// answer that is shorter than it says is an error.
func (c *connection) send(q *request) (status int, content []byte, err error) {
	if c.Conn == nil {
		if c.Conn, err = net.Dial("tcp", c.address); err != nil {
			return 0, nil, err
		}
		_ = c.Conn.(*net.TCPConn).SetLinger(0) // so many connections would wait for their end
		c.in = bufio.NewReader(c.Conn)
	}
	wire, whole := q.wire(c.address)
	keep := false
	defer func() {
		if !keep {
			_ = c.Close()
			c.Conn = nil
		}
	}()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	// The server may answer and close the connection before it has read all.
	go func(to *net.TCPConn) {
		_, _ = to.Write(wire)
		if !whole {
			_ = to.CloseWrite()
		}
	}(c.Conn.(*net.TCPConn))
	for {
		answer, err := http.ReadResponse(c.in, &http.Request{Method: q.method})
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				return 0, nil, fmt.Errorf("no answer: %w", err)
			}
			return 0, nil, nil // it broke the connection off, which is for what is no HTTP
		}
		if answer.StatusCode == http.StatusContinue {
			continue
		}
		content, err := io.ReadAll(answer.Body)
		keep = err == nil && whole && !answer.Close && answer.StatusCode < 300 && len(q.changes) == 0
		return answer.StatusCode, content, err
	}
}

// TestChangedRequests sends requests that are signed and changed. No answer is an internal error or
// cut, the gateway goes on, what was put before is there, and nothing is stored plain.
func TestChangedRequests(t *testing.T) {
	t.Logf("seed %d", *seed)
	var stderr bytes.Buffer
	folder := t.TempDir()
	command := newGateway(t, "--folder", folder)
	base, process := run(t, func(address string) *exec.Cmd {
		process := command(address)
		process.Stderr = &stderr
		return process
	})
	// What the gateway says is written by another goroutine until the process has ended.
	end := sync.OnceFunc(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	defer func() {
		end()
		if t.Failed() {
			lines := bytes.Split(stderr.Bytes(), []byte("\n"))
			t.Logf("%s", bytes.Join(lines[max(0, len(lines)-50):], []byte("\n")))
		}
	}()
	address := strings.TrimPrefix(base, "http://")
	ask := func(q *request) []byte {
		t.Helper()
		c := &connection{address: address}
		status, content, err := c.send(q)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, "%s", content)
		return content
	}
	ask(&request{method: "PUT", bucket: bucket})
	canary := contentOf(1, 600_000)
	ask(&request{method: "PUT", bucket: bucket, key: "canary", content: canary})
	at := target{tags: []string{"x"}}
	for range 3 {
		var begun struct{ UploadId string }
		require.NoError(t, xml.Unmarshal(ask(&request{method: "POST", bucket: bucket, key: "up", query: url.Values{"uploads": {""}}}), &begun))
		at.uploads = append(at.uploads, begun.UploadId)
		ask(&request{method: "PUT", bucket: bucket, key: "up", query: url.Values{"uploadId": {begun.UploadId}, "partNumber": {"1"}}, content: []byte(marker)})
	}
	var parts struct{ Part []struct{ ETag string } }
	require.NoError(t, xml.Unmarshal(ask(&request{method: "GET", bucket: bucket, key: "up", query: url.Values{"uploadId": {at.uploads[0]}}}), &parts))
	at.tags = []string{parts.Part[0].ETag}

	const clients = 8
	var mu sync.Mutex
	answers := make(map[int]int)
	var all sync.WaitGroup
	var failed atomic.Int64
	for n := range clients {
		all.Go(func() {
			c := &connection{address: address}
			for i := n; i < *changed && failed.Load() < 20; i += clients {
				q := changedRequest(rand.New(rand.NewPCG(*seed, uint64(i))), at)
				status, content, err := c.send(q)
				mu.Lock()
				answers[status]++
				mu.Unlock()
				if err != nil || status >= 500 && status != http.StatusNotImplemented {
					failed.Add(1)
					wire, _ := q.wire(address)
					t.Errorf("request %d: %d, %v: %.2000q: %s", i, status, err, wire, content)
				}
				if i%100 == n {
					status, content, err := c.send(&request{method: "GET", bucket: bucket, key: "canary"})
					if err != nil || status != http.StatusOK || !bytes.Equal(canary, content) {
						t.Errorf("canary: %d, %v, %d bytes", status, err, len(content))
					}
				}
			}
		})
	}
	all.Wait()
	t.Log(answers)
	require.NotZero(t, answers[http.StatusOK])
	require.Equal(t, canary, ask(&request{method: "GET", bucket: bucket, key: "canary"}))
	end()
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, `msg="decode the content of a request: panic"`) { // at chunks that are wrong
			continue
		}
		require.NotContains(t, line, "panic")
		require.NotContains(t, line, "goroutine ")
	}
	requireNothingPlain(t, folder)
}

// fixed are requests that were answered wrongly once, and the statuses that they have.
func fixed() map[string]struct {
	request *request
	status  []int
} {
	put := func(change func(q *request)) *request {
		q := &request{method: "PUT", bucket: bucket, key: "a", header: make(http.Header), content: bytes.Repeat([]byte(marker), 1000)}
		change(q)
		return q
	}
	inChunks := func(payload, trailer string, change func(i int, head, data, end string) (string, string, string), last func(string) string) *request {
		return put(func(q *request) { q.chunks = &chunks{payload, trailer, 9000, change, last} })
	}
	const signed, withTrailer, unsigned = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	const crc = "x-amz-checksum-crc32"
	same := func(text string) string { return text }
	unchanged := func(_ int, head, data, end string) (string, string, string) { return head, data, end }
	negative := func(at int) func(i int, head, data, end string) (string, string, string) {
		return func(i int, head, data, end string) (string, string, string) {
			if i == at {
				_, rest, _ := strings.Cut(head, ";")
				head = "-1;" + rest
			}
			return head, data, end
		}
	}
	withoutEnd := func(i int, head, data, end string) (string, string, string) {
		if data == "" {
			return "", "", ""
		}
		return head, data, end
	}
	ok, refused := []int{http.StatusOK}, []int{http.StatusBadRequest, http.StatusForbidden, http.StatusLengthRequired}
	return map[string]struct {
		request *request
		status  []int
	}{
		"right":                     {inChunks(signed, "", unchanged, same), ok},
		"right, with a trailer":     {inChunks(withTrailer, crc, unchanged, same), ok},
		"right, not signed":         {inChunks(unsigned, crc, unchanged, same), ok},
		"first chunk of -1":         {inChunks(signed, "", negative(0), same), refused},
		"second chunk of -1":        {inChunks(signed, "", negative(1), same), refused},
		"chunk of -1, and trailer":  {inChunks(withTrailer, crc, negative(1), same), refused},
		"chunk of -1, not signed":   {inChunks(unsigned, crc, negative(1), same), refused},
		"no last chunk":             {inChunks(signed, "", withoutEnd, same), refused},
		"no last chunk, trailer":    {inChunks(withTrailer, crc, withoutEnd, func(string) string { return "" }), refused},
		"no last chunk, not signed": {inChunks(unsigned, crc, withoutEnd, func(string) string { return "" }), refused},
		"another checksum": {inChunks(unsigned, crc, unchanged, func(text string) string {
			return crc + ":AAAAAA==\r\n\r\n"
		}), refused},
		"no trailer":        {inChunks(withTrailer, crc, unchanged, func(string) string { return "\r\n" }), refused},
		"a body that ends":  {put(func(q *request) { q.lengthOff = 1000 }), refused},
		"decoded -1 bytes":  {put(func(q *request) { q.header.Set("X-Amz-Decoded-Content-Length", "-1") }), refused},
		"no form":           {put(func(q *request) { q.header.Set("Content-Type", "multipart/form-data; boundary=x") }), ok},
		"a long name":       {&request{method: "GET", bucket: bucket, key: strings.Repeat("k", 300), query: url.Values{"retention": {""}}}, []int{400, 404, 501}},
		"an unknown method": {put(func(q *request) { q.method = "GE\x8a" }), []int{400, 405, 501}},
		"a wrong URL": {put(func(q *request) {
			q.changes = append(q.changes, func(_ *rand.Rand, lines []string) []string {
				lines[0] = "PUT /data/%zz HTTP/1.1"
				return lines
			})
		}), refused},
		"a wrong host": {put(func(q *request) {
			q.changes = append(q.changes, func(_ *rand.Rand, lines []string) []string {
				lines[1] = "Host: a:b"
				return lines
			})
		}), refused},
	}
}

// TestFixedRequests sends requests that some gateway once answered wrongly, over a folder and in
// front of S3. A request that is refused stores nothing.
func TestFixedRequests(t *testing.T) {
	folder := t.TempDir()
	behind := servePlain(t, t.TempDir())
	t.Setenv("AWS_ACCESS_KEY_ID", access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	for place, args := range map[string][]string{"a folder": {"--folder", folder}, "S3": {"--upstream", "s3://?region=" + region + "&endpoint=" + behind}} {
		t.Run(place, func(t *testing.T) {
			address := strings.TrimPrefix(serve(t, newGateway(t, args...)), "http://")
			send := func(q *request) (int, []byte) {
				t.Helper()
				status, content, err := (&connection{address: address}).send(q)
				require.NoError(t, err)
				return status, content
			}
			status, _ := send(&request{method: "PUT", bucket: bucket})
			require.Equal(t, http.StatusOK, status)
			for name, f := range fixed() {
				if place == "S3" && name == "no form" {
					continue // the engine is the S3 behind, and refuses it
				}
				status, content := send(f.request)
				require.Contains(t, f.status, status, "%s: %s", name, content)
				status, content = send(&request{method: "GET", bucket: bucket, key: "a"})
				if f.status[0] == http.StatusOK {
					require.Equal(t, f.request.content, content, name)
				} else {
					require.Equal(t, http.StatusNotFound, status, name)
				}
				_, _ = send(&request{method: "DELETE", bucket: bucket, key: "a"})
			}
		})
	}
}
