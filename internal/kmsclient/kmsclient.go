// Package kmsclient bounds the attempts of a client of AWS KMS, and keeps plaintexts out of the AWS
// SDK, for the packages whose keys are in AWS KMS.
package kmsclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/provider"
)

// maxAnswer bounds an answer of KMS in bytes. The largest have about 16 KiB.
const maxAnswer = 1 << 20

// Bound returns a client whose attempts each take at most timeout, whoever made the client. The AWS
// SDK itself bounds only connecting, to 30 s, but not waiting for an answer or reading it.
func Bound(client *kms.Client, timeout time.Duration) *kms.Client {
	options := client.Options()
	options.HTTPClient = &attempts{options.HTTPClient, timeout}
	if options.Credentials != nil {
		options.Credentials = &boundCredentials{options.Credentials, timeout}
	}
	return kms.New(options)
}

// attempts is the HTTP client of a bound KMS client. It bounds the time of each attempt, which ends
// when its whole answer is read.
type attempts struct {
	inner   kms.HTTPClient
	timeout time.Duration
}

// Do implements kms.HTTPClient.
func (a *attempts) Do(request *http.Request) (*http.Response, error) {
	provider.TraceOf(request.Context()).Request()
	ctx, cancel := context.WithTimeout(request.Context(), a.timeout)
	defer cancel()
	response, err := a.inner.Do(request.WithContext(ctx))
	if err == nil {
		if err = readAnswer(response, heldBy(ctx)); err != nil {
			err = fmt.Errorf("%s: %w", request.URL.Host, err)
		}
	}
	if err == nil {
		if response.StatusCode != http.StatusOK {
			provider.TraceOf(request.Context()).Failed(fmt.Errorf("HTTP %s", response.Status))
		}
		return response, nil
	}
	// If the caller's own context has ended, its error stays as it is.
	if ctx.Err() != nil && request.Context().Err() == nil {
		err = &timeoutError{request.URL.Host, a.timeout}
	}
	provider.TraceOf(request.Context()).Failed(err)
	return nil, err
}

// readAnswer reads an answer into memory, and replaces the response's body by it.
func readAnswer(response *http.Response, held *Held) error {
	defer response.Body.Close()
	body, err := readBounded(response.Body, response.ContentLength)
	if err != nil {
		clear(body)
		return fmt.Errorf("reading the answer: %w", err)
	}
	// KMS answers with a JSON object, even for errors. Other answers come from load balancers or
	// proxies.
	start := bytes.TrimLeft(body, " \t\r\n")
	if !bytes.HasPrefix(start, []byte("{")) || response.StatusCode == http.StatusOK && !isOfKMS(response.Request, body) {
		return newNoKMSError(response)
	}
	if held != nil && response.StatusCode == http.StatusOK {
		body = held.takeFrom(body)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	return nil
}

// isOfKMS reports whether an answer has what every such answer of KMS has: the description of a
// key, if that was asked for, or else the ARN of the key that was used or the result.
func isOfKMS(request *http.Request, body []byte) bool {
	if request == nil {
		return true
	}
	_, operation, _ := strings.Cut(request.Header.Get("X-Amz-Target"), ".")
	switch operation {
	case "DescribeKey":
		return bytes.Contains(body, []byte(`"KeyMetadata"`))
	case "GenerateDataKey", "Encrypt", "Decrypt", "ReEncrypt", "DeriveSharedSecret":
		return bytes.Contains(body, []byte(`"KeyId"`)) || bytes.Contains(body, []byte(`"CiphertextBlob"`)) || bytes.Contains(body, []byte(`"Plaintext"`))
	}
	return true
}

// readBounded reads r to its end, and clears the buffers that it outgrows. The expected length is
// -1 if it is not known.
func readBounded(r io.Reader, expected int64) ([]byte, error) {
	if expected > maxAnswer {
		return nil, fmt.Errorf("it has %d bytes, KMS's have at most %d", expected, maxAnswer)
	}
	buf := make([]byte, 0, max(expected+1, 4096))
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return buf, err
		case len(buf) > maxAnswer:
			return buf, fmt.Errorf("it has over %d bytes", maxAnswer)
		}
		if len(buf) == cap(buf) {
			larger := append(make([]byte, 0, 2*cap(buf)), buf...)
			clear(buf)
			buf = larger
		}
	}
}

// timeoutError is the error of an attempt that took too long. It does not hold
// context.DeadlineExceeded, which would mean the caller's deadline. The AWS SDK tries again after
// it.
type timeoutError struct {
	host string
	time time.Duration
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("no whole answer of %s within %v", e.host, e.time)
}

func (*timeoutError) Timeout() bool { return true }

// noKMSError is the error of an answer that is not KMS's. The AWS SDK tries again after it if its
// status is that of a fault.
type noKMSError struct {
	code         int
	status, kind string
}

func newNoKMSError(response *http.Response) *noKMSError {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return &noKMSError{response.StatusCode, response.Status, cmp.Or(kind, "no content type")}
}

func (e *noKMSError) Error() string {
	return fmt.Sprintf("HTTP %s with %q is no answer of KMS; check the endpoint's URL and proxies on the way", e.status, e.kind)
}

func (e *noKMSError) RetryableError() bool { return e.code >= http.StatusInternalServerError }

// boundCredentials bounds the wait for credentials, which may come from another service, and wraps
// its failures in a CredentialsError.
type boundCredentials struct {
	inner   aws.CredentialsProvider
	timeout time.Duration
}

// Retrieve implements aws.CredentialsProvider.
func (b *boundCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	bounded, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	got, err := b.inner.Retrieve(bounded)
	if err != nil && ctx.Err() == nil {
		err = &CredentialsError{Cause: err, Late: bounded.Err() != nil}
	}
	return got, err
}

// IsCredentialsProvider shows the AWS SDK which provider is within.
func (b *boundCredentials) IsCredentialsProvider(target aws.CredentialsProvider) bool {
	return aws.IsCredentialsProvider(b.inner, target)
}

// CredentialsError is a failure of the credential chain. It does not unwrap to its cause, which may
// hold the error of a context that is not the caller's.
type CredentialsError struct {
	Cause error
	Late  bool // the wait took too long
}

func (e *CredentialsError) Error() string { return e.Cause.Error() }

// Held is the plaintext of an answer, taken out before the AWS SDK sees the answer. The AWS SDK
// would leave its base64 text in memory, twice. The plaintext still stays in the buffers of the
// network connection until these are used again.
type Held struct{ plaintext []byte }

type heldKey struct{}

// Hold returns a context that carries a place for the plaintext of an answer.
func Hold(ctx context.Context) (context.Context, *Held) {
	h := new(Held)
	return context.WithValue(ctx, heldKey{}, h), h
}

// heldBy returns the place for the plaintext that a context carries, or nil.
func heldBy(ctx context.Context) *Held {
	h, _ := ctx.Value(heldKey{}).(*Held)
	return h
}

// Take returns the plaintext, which the caller clears. found is what the AWS SDK saw of it. That is
// nothing, unless takeFrom did not recognise the form of the answer.
func (h *Held) Take(found []byte) []byte {
	if len(found) > 0 {
		clear(h.plaintext)
		return found
	}
	return h.plaintext
}

// takeFrom takes the member "Plaintext" or "SharedSecret" out of an answer's body. It changes the
// body and returns it.
func (h *Held) takeFrom(body []byte) []byte {
	clear(h.plaintext) // left over from an earlier attempt
	h.plaintext = nil
	start, end, ok := member(body, "Plaintext")
	if !ok {
		start, end, ok = member(body, "SharedSecret")
	}
	if !ok {
		return body
	}
	text := body[start:end]
	plaintext := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(plaintext, text)
	if err != nil {
		clear(plaintext)
		return body
	}
	h.plaintext = plaintext[:n]
	rest := start + copy(body[start:], body[end:])
	clear(body[rest:])
	return body[:rest]
}

// member returns where the text of a member is in a JSON object, without its quotes. It finds only
// text without escapes.
func member(body []byte, name string) (start, end int, ok bool) {
	depth := 0
	isName, found := false, false // whether the next string is a name; whether the last name was this one
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
			isName, found = depth == 1, false
		case '}', ']':
			depth--
		case ',':
			isName, found = depth == 1, false
		case '"':
			start = i + 1
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			if i >= len(body) {
				return 0, 0, false
			}
			text := body[start:i]
			if found && depth == 1 {
				return start, i, !bytes.Contains(text, []byte(`\`))
			}
			found = isName && string(text) == name
			isName = false
		}
	}
	return 0, 0, false
}
