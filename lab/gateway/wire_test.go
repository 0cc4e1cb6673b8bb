package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// request is a request as it is sent, by bytes.
type request struct {
	method, bucket, key string
	query               url.Values
	header              http.Header
	content             []byte

	chunks    *chunks                                       // of aws-chunked; nil for none
	lengthOff int                                           // by which the length that is stated is wrong
	changes   []func(r *rand.Rand, lines []string) []string // of the lines
}

// chunks is how a content is sent as aws-chunked (Amazon S3 API Reference, "Signature calculations
// for the Authorization header: transferring payload in multiple chunks").
type chunks struct {
	payload string // x-amz-content-sha256
	trailer string // name of the checksum; empty for none
	size    int    // of a chunk
	change  func(i int, head, data, end string) (string, string, string)
	last    func(text string) string // changes what follows the chunks
}

// chunk sends the content as aws-chunked, mostly with a change.
func (q *request) chunk(r *rand.Rand) {
	c := &chunks{size: pick(r, 1, 8192, 8192, 8192) + r.IntN(70_000), payload: pick(r, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")}
	if strings.HasSuffix(c.payload, "TRAILER") {
		c.trailer = pick(r, "x-amz-checksum-crc32", "x-amz-checksum-crc32", "x-amz-checksum-sha256", "x-amz-checksum-none", "")
	}
	at := r.IntN(4)
	head := pick(r, "", "", "", "-1", "0", "ffffffffffffffff", "7fffffffffffffff", "x", "00000000000000000001", "1;", "5 ")
	data := r.IntN(6)
	end := pick(r, "\r\n", "\r\n", "\r\n", "\n", "", "\r\n\r\n", "x")
	flipped := r.IntN(8) == 0
	c.change = func(i int, h, d, e string) (string, string, string) {
		if i != at {
			return h, d, e
		}
		if head != "" {
			_, rest, _ := strings.Cut(h, ";")
			h = head + ";" + rest
		}
		if flipped {
			h = strings.Map(func(c rune) rune {
				if c == 'a' {
					return 'b'
				}
				return c
			}, h)
		}
		if data == 0 && d != "" {
			d = d[1:]
		} else if data == 1 {
			d += "x"
		}
		return h, d, end
	}
	last := r.IntN(10)
	c.last = func(text string) string {
		switch last {
		case 0:
			return ""
		case 1:
			return text[:len(text)/2]
		case 2:
			return text + text
		case 3:
			return text + "x-amz-meta-a: b\r\n\r\n"
		case 4:
			return strings.Replace(text, ":", pick(rand.New(rand.NewPCG(1, uint64(len(text)))), "", "::", ":\x00", ": AAAAAA=="), 1)
		}
		return text
	}
	q.chunks = c
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text)) // it never fails
	return h.Sum(nil)
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// wire returns the bytes of the request, signed, and whether they are all that its length says.
func (q *request) wire(host string) (text []byte, whole bool) {
	now := time.Now().UTC()
	path := "/" + q.bucket
	if q.key != "" {
		path += "/" + q.key
	}
	u := &url.URL{Scheme: "http", Host: host, Path: path, RawQuery: q.query.Encode()}
	signed := (&http.Request{Method: q.method, URL: u, Host: host, Header: make(http.Header)})
	for name, values := range q.header {
		signed.Header[name] = slices.Clone(values)
	}
	payload, body := "UNSIGNED-PAYLOAD", q.content
	if q.chunks != nil {
		payload = q.chunks.payload
		if signed.Header.Get("X-Amz-Decoded-Content-Length") == "" {
			signed.Header.Set("X-Amz-Decoded-Content-Length", strconv.Itoa(len(q.content)))
		}
		if q.chunks.trailer != "" {
			signed.Header.Set("X-Amz-Trailer", q.chunks.trailer)
		}
		body = q.encode("", nil, now) // as long as with signatures
	}
	length := max(0, len(body)+q.lengthOff)
	signed.ContentLength = int64(length)
	signed.Header.Set("X-Amz-Content-Sha256", payload)
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err := signer.SignHTTP(context.Background(), aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, signed, payload, "s3", region, now)
	if err != nil {
		panic(err) // only a wrong time or no credentials
	}
	if q.chunks != nil {
		_, signature, _ := strings.Cut(signed.Header.Get("Authorization"), "Signature=")
		key := mac(mac(mac(mac([]byte("AWS4"+secret), now.Format("20060102")), region), "s3"), "aws4_request")
		body = q.encode(signature, key, now)
	}
	lines := []string{fmt.Sprintf("%s %s HTTP/1.1", q.method, u.RequestURI()), "Host: " + host}
	for name, values := range signed.Header {
		for _, value := range values {
			lines = append(lines, name+": "+value)
		}
	}
	slices.Sort(lines[2:])
	if length > 0 || q.method == "PUT" || q.method == "POST" {
		lines = append(lines, "Content-Length: "+strconv.Itoa(length))
	}
	r := rand.New(rand.NewPCG(uint64(len(body)), uint64(len(q.changes))))
	for _, change := range q.changes {
		lines = change(r, lines)
	}
	text = append([]byte(strings.Join(lines, "\r\n")+"\r\n\r\n"), body...)
	return text, length == len(body) && len(q.changes) == 0 && (q.chunks == nil)
}

// encode returns the content as aws-chunked.
func (q *request) encode(signature string, key []byte, now time.Time) []byte {
	var out bytes.Buffer
	signed := strings.HasPrefix(q.chunks.payload, "STREAMING-AWS4")
	scope := now.Format("20060102") + "/" + region + "/s3/aws4_request"
	sign := func(algorithm, hashed string) string {
		signature = hex.EncodeToString(mac(key, strings.Join([]string{algorithm, now.Format("20060102T150405Z"), scope, signature, hashed}, "\n")))
		return signature
	}
	pieces := append(slices.Collect(slices.Chunk(q.content, q.chunks.size)), nil)
	for i, piece := range pieces {
		head := strconv.FormatInt(int64(len(piece)), 16)
		if signed {
			head += ";chunk-signature=" + sign("AWS4-HMAC-SHA256-PAYLOAD", hash(nil)+"\n"+hash(piece))
		}
		end := "\r\n"
		if piece == nil && q.chunks.trailer != "" {
			end = ""
		}
		head, data, end := q.chunks.change(i, head, string(piece), end)
		out.WriteString(head + "\r\n" + data + end)
	}
	var last string
	if q.chunks.trailer != "" {
		sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(q.content)))
		if strings.HasSuffix(q.chunks.trailer, "sha256") {
			all := sha256.Sum256(q.content)
			sum = base64.StdEncoding.EncodeToString(all[:])
		}
		last = q.chunks.trailer + ":" + sum + "\r\n"
		if signed {
			last += "x-amz-trailer-signature:" + sign("AWS4-HMAC-SHA256-TRAILER", hash([]byte(q.chunks.trailer+":"+sum+"\n"))) + "\r\n"
		}
		last += "\r\n"
	}
	out.WriteString(q.chunks.last(last))
	return out.Bytes()
}
