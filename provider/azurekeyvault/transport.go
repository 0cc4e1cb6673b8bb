package azurekeyvault

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"piko.sh/pikokms/provider"
)

// maxAnswer bounds an answer of a vault in bytes. That about an RSA key of 4,096 bits has about
// 2,000.
const maxAnswer = 64 << 10

// exchange is a call of a vault, which may take several requests. Their context carries it to the
// transport.
//
// Azure's client leaves copies of what it sends and receives in memory. So it is given no plain
// data key: the transport puts it into the request and takes it out of the answer.
type exchange struct {
	caller context.Context // the context without the timeout of an attempt

	algorithm string // by which sent is wrapped
	sent      []byte // to be wrapped; nil otherwise
	takes     bool   // whether the answer has a plain value
	taken     []byte // that value, which the caller clears

	unreached error // why Microsoft Entra ID was not reached; nil otherwise
}

type exchangeKey struct{}

// transport sends the requests of Azure's client. It reads each answer to its end, so that one that
// breaks off is a failed attempt, which the client makes again.
type transport struct{ inner policy.Transporter }

// newHTTPClient returns a client that follows no redirects. Vaults send none, and a request with a
// data key or a token must not go elsewhere.
func newHTTPClient() *http.Client {
	inner := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if standard, ok := http.DefaultTransport.(*http.Transport); ok { // an application may have another one
		inner = standard.Clone()
	}
	return &http.Client{
		Transport:     inner,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Do implements policy.Transporter.
func (t *transport) Do(request *http.Request) (*http.Response, error) {
	provider.TraceOf(request.Context()).Request()
	call, ok := request.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, errors.New("a request outside of a call")
	}
	response, err := t.send(request, call)
	switch {
	case err != nil:
		provider.TraceOf(call.caller).Failed(err)
	case response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests:
		provider.TraceOf(call.caller).Failed(fmt.Errorf("HTTP %s", response.Status))
	}
	return response, err
}

func (t *transport) send(request *http.Request, call *exchange) (*http.Response, error) {
	// The client's first request of all has no body, since it only asks how to log in.
	if call.sent != nil && request.ContentLength > 0 {
		with, zero := withValue(request, call.algorithm, call.sent)
		defer zero()
		request = with
	} else if request.ContentLength > 0 {
		own, err := withOwnBody(request)
		if err != nil {
			return nil, err
		}
		request = own
	}
	response, err := t.inner.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	// An answer with a key is far smaller than this buffer, so that no part of a key is in one that
	// was outgrown.
	buffer := bytes.NewBuffer(make([]byte, 0, 16<<10))
	_, err = buffer.ReadFrom(io.LimitReader(response.Body, maxAnswer+1))
	text := buffer.Bytes()
	switch {
	case err != nil:
		clear(text)
		return nil, fmt.Errorf("reading the answer: %w", err)
	case len(text) > maxAnswer:
		clear(text)
		return nil, fmt.Errorf("the answer has over %d bytes", maxAnswer)
	case response.StatusCode == http.StatusUnauthorized && !isChallenge(response.Header.Get("WWW-Authenticate")):
		response.Header.Del("WWW-Authenticate")
	}
	if call.takes && response.StatusCode == http.StatusOK {
		text = call.take(text)
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return response, nil
}

// isChallenge reports whether Azure's client can parse the header of a challenge. The client fails
// with a panic if the URL that names the tenant has no path.
func isChallenge(header string) bool {
	for part := range strings.SplitSeq(strings.ReplaceAll(header, "Bearer ", ""), " ") {
		if strings.Contains(part, "authorization=") && strings.Count(part, "/") < 3 {
			return false
		}
	}
	return true
}

// withOwnBody returns the request with a reader of its own. Azure's client rewinds its reader for
// the next attempt, and net/http may still read from it then, if the answer came before the request
// was sent.
func withOwnBody(request *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(request.Body)
	if err := errors.Join(err, request.Body.Close()); err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	copied := request.WithContext(request.Context())
	copied.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	copied.Body, err = copied.GetBody()
	return copied, err
}

// withValue returns a request to wrap a value, and a function that zeroes its text if no connection
// took it. Otherwise the text is zeroed when it has been sent. The text is in a reader that
// net/http knows, since net/http copies others.
func withValue(request *http.Request, algorithm string, value []byte) (with *http.Request, zero func()) {
	const head, middle, tail = `{"alg":"`, `","value":"`, `"}`
	text := make([]byte, 0, len(head)+len(algorithm)+len(middle)+base64.RawURLEncoding.EncodedLen(len(value))+len(tail))
	text = append(append(append(text, head...), algorithm...), middle...)
	text = append(base64.RawURLEncoding.AppendEncode(text, value), tail...)
	var taken atomic.Bool
	with = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { taken.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) { clear(text) },
	}))
	with.Body, with.ContentLength, with.GetBody = io.NopCloser(bytes.NewReader(text)), int64(len(text)), nil
	return with, func() {
		if !taken.Load() {
			clear(text)
		}
	}
}

// take takes the value out of an answer, zeroes the answer, and returns one without the value. It
// returns an empty one for an answer of another form.
func (e *exchange) take(text []byte) []byte {
	var answer struct {
		KID   string      `json:"kid"`
		Value secretValue `json:"value"`
	}
	err := json.Unmarshal(text, &answer)
	clear(text)
	clear(e.taken) // the value of an earlier answer
	e.taken = answer.Value
	if err != nil {
		return []byte("{}")
	}
	without, _ := json.Marshal(struct {
		KID string `json:"kid"`
	}{answer.KID}) // a string can always be marshalled
	return without
}

// secretValue is decoded from base64url text without a copy of that text.
type secretValue []byte

// UnmarshalJSON implements json.Unmarshaler.
func (v *secretValue) UnmarshalJSON(text []byte) error {
	if text[0] != '"' {
		return errors.New("the value is no text")
	}
	text = bytes.TrimRight(bytes.Trim(text, `"`), "=")
	value := make([]byte, base64.RawURLEncoding.DecodedLen(len(text)))
	n, err := base64.RawURLEncoding.Decode(value, text)
	if err != nil {
		clear(value)
		return errors.New("the value is not base64url")
	}
	*v = value[:n]
	return nil
}
