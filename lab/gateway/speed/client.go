package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// payload is how the content of a request is signed.
type payload string

const (
	unsigned payload = "unsigned" // UNSIGNED-PAYLOAD, without a checksum
	signed   payload = "signed"   // SHA-256 in the signature
	trailer  payload = "trailer"  // aws-chunked, then a CRC32, which AWS's SDKs send by default
)

func payloads() []string { return []string{string(unsigned), string(signed), string(trailer)} }

// pattern is random content, which can't be compressed. Objects repeat it.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
})

// body is the content of a request as it is sent. Its sums are known before anything is measured.
type body struct {
	length, content int64 // bytes, as sent and of the object
	headers         map[string]string
	hash            string // of the signature
	open            func() io.Reader
}

// bodies keeps bodies by their length, since sums of large ones take long.
var bodies sync.Map

func bodyOf(kind payload, length int64) *body {
	type key struct {
		payload
		int64
	}
	if cached, ok := bodies.Load(key{kind, length}); ok {
		return cached.(*body)
	}
	made := newBody(kind, length)
	bodies.Store(key{kind, length}, made)
	return made
}

func repeated(length int64) io.Reader { return io.LimitReader(&cycle{}, length) }

// cycle repeats pattern without an end.
type cycle struct{ at int }

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, pattern()[c.at:])
	c.at = (c.at + n) % len(pattern())
	return n, nil
}

func newBody(kind payload, length int64) *body {
	b := &body{length: length, content: length, hash: "UNSIGNED-PAYLOAD", open: func() io.Reader { return repeated(length) }}
	switch kind {
	case signed:
		sum := sha256.New()
		_, _ = io.Copy(sum, repeated(length)) // neither fails
		b.hash = hex.EncodeToString(sum.Sum(nil))
	case trailer:
		sum := crc32.NewIEEE()
		_, _ = io.Copy(sum, repeated(length)) // neither fails
		end := "0\r\nx-amz-checksum-crc32:" + base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum.Sum32())) + "\r\n\r\n"
		b.hash = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
		b.headers = map[string]string{
			"Content-Encoding": "aws-chunked", "X-Amz-Trailer": "x-amz-checksum-crc32", "X-Amz-Decoded-Content-Length": strconv.FormatInt(length, 10),
		}
		b.open = func() io.Reader { return &chunks{left: length, source: repeated(length), end: end} }
		b.length, _ = io.Copy(io.Discard, b.open())
	}
	return b
}

// chunks is content in chunks of 64 KiB, as AWS's SDKs send them.
type chunks struct {
	left    int64
	source  io.Reader
	end     string
	current io.Reader
}

func (c *chunks) Read(p []byte) (int, error) {
	for {
		if c.current != nil {
			n, err := c.current.Read(p)
			if err != io.EOF {
				return n, err
			}
			c.current = nil
		}
		switch {
		case c.left > 0:
			size := min(c.left, 64<<10)
			c.left -= size
			c.current = io.MultiReader(bytes.NewReader(fmt.Appendf(nil, "%x\r\n", size)), io.LimitReader(c.source, size), bytes.NewReader([]byte("\r\n")))
		case c.end != "":
			c.current, c.end = bytes.NewReader([]byte(c.end)), ""
		default:
			return 0, io.EOF
		}
	}
}

// client sends signed requests. It parses an answer only where that is needed, to cost little time.
type client struct {
	ctx     context.Context // ends when this program is interrupted
	url     string
	payload payload
	http    *http.Client
	signer  *v4.Signer
}

func newClient(ctx context.Context, url string, kind payload) *client {
	return &client{ctx, url, kind, &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // of servers that this program has started
	}}, v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })}
}

// request returns a signed request.
func (c *client) request(method, path string, b *body, headers map[string]string) (*http.Request, error) {
	if b == nil {
		b = bodyOf(unsigned, 0)
	}
	request, err := http.NewRequestWithContext(c.ctx, method, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	if b.length > 0 {
		request.Body, request.ContentLength = io.NopCloser(b.open()), b.length
	}
	for name, value := range b.headers {
		request.Header.Set(name, value)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("X-Amz-Content-Sha256", b.hash)
	credentials := aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}
	return request, c.signer.SignHTTP(c.ctx, credentials, request, b.hash, "s3", region, time.Now())
}

// buffers holds the memory that answers are read to.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// do sends a request and reads its answer, into answer if that is not nil.
func (c *client) do(method, path string, b *body, answer any) error {
	_, err := c.send(method, path, b, nil, answer)
	return err
}

func (c *client) send(method, path string, b *body, headers map[string]string, answer any) (*http.Response, error) {
	request, err := c.request(method, path, b, headers)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%s %s: %s: %.500s", method, path, response.Status, text)
	}
	if answer != nil {
		return response, xml.NewDecoder(response.Body).Decode(answer)
	}
	buffer := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buffer)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{response.Body}, buffer[:])
	if err == nil && response.ContentLength >= 0 && n != response.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return response, err
}

// put puts an object of this length.
func (c *client) put(path string, length int64) error {
	return c.do("PUT", path, bodyOf(c.payload, length), nil)
}

// get gets an object, or the range if that is not empty, and compares its length.
func (c *client) get(path, byteRange string, length int64) error {
	var headers map[string]string
	if byteRange != "" {
		headers = map[string]string{"Range": byteRange}
	}
	response, err := c.send("GET", path, nil, headers, nil)
	if err == nil && response.ContentLength != length {
		err = fmt.Errorf("GET %s: %d bytes, want %d", path, response.ContentLength, length)
	}
	return err
}
