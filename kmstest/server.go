package kmstest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Account is the AWS account of keys that state none, and of callers whose access key ID is not an
// account.
const Account = "111122223333"

// Region is the Region of keys that state none.
const Region = "eu-west-1"

const (
	contentType = "application/x-amz-json-1.1"
	maxRequest  = 1 << 20 // bytes; far more than the largest request of KMS has
)

// Server is an AWS KMS. It is safe for concurrent use.
type Server struct {
	URL string // the endpoint, such as "http://127.0.0.1:41234"

	http    *httptest.Server
	closing chan struct{} // closed by Close
	closed  sync.Once

	mu       sync.Mutex
	keys     []*key
	aliases  map[aliasName]*key
	faults   []*Fault
	requests []*Request // guarded by mu; only a request's own call changes it

	calls sync.WaitGroup // calls that are under way
}

type aliasName struct{ region, account, name string }

// New starts a server. The caller closes it.
func New() *Server {
	s := &Server{closing: make(chan struct{}), aliases: make(map[aliasName]*key)}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.http.URL
	return s
}

// NewServer starts a server that is closed when the test ends.
func NewServer(t testing.TB) *Server {
	s := New()
	t.Cleanup(s.Close)
	return s
}

// Close ends all calls that are under way, stalled ones too, and stops the server. It returns when
// no goroutine of the server is left. Connections are refused from then on.
func (s *Server) Close() {
	s.closed.Do(func() {
		close(s.closing)
		s.http.CloseClientConnections()
		s.http.Close()
		s.calls.Wait() // the HTTP server does not wait for hijacked connections
	})
}

// Request is one call that reached the server.
type Request struct {
	Operation string // such as "Decrypt"
	Region    string
	Account   string // of the caller

	KeyID             string // KeyId as the caller gave it; for ReEncrypt, DestinationKeyId
	KeyARN            string // of the key that the caller or the ciphertext names; empty if there is none
	SourceKeyARN      string // of the key of ReEncrypt's source; empty if there is none
	EncryptionContext map[string]string
	GrantTokens       []string
	DryRun            bool

	Error string // code of the error of KMS that was answered, such as "NotFoundException"
}

// Calls returns how many calls of an operation reached the server, successful or not. A retry
// counts as a call. An empty operation counts all calls.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if operation == "" || r.Operation == operation {
			n++
		}
	}
	return n
}

// Requests returns the calls that reached the server since it started, or since [Server.Reset], in
// the order of their arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := make([]Request, len(s.requests))
	for i, r := range s.requests {
		requests[i] = *r
	}
	return requests
}

// Reset forgets all calls so far, so [Server.Calls] counts from zero again. Keys and faults stay.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// exchange is one call that is under way.
type exchange struct {
	server  *Server
	writer  http.ResponseWriter
	http    *http.Request
	request *Request
	input   input
	rsa     []func() *rsa.PrivateKey // of the keys that the call uses
}

// answer is the answer to a call.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.calls.Add(1)
	defer s.calls.Done()
	x := &exchange{server: s, writer: w, http: r, request: new(Request)}
	refused := x.read()
	faults := s.arrive(x)

	var a *answer
	for _, f := range faults {
		if f.Do.before != nil && a == nil {
			a = f.Do.before(x)
			x.abortIfGone()
		}
	}
	if a == nil {
		a = x.carryOut(faults, refused)
	}
	s.mu.Lock()
	x.request.Error = a.header.Get("X-Amzn-Errortype")
	s.mu.Unlock()
	for _, f := range faults {
		if f.Do.send != nil && f.Do.send(x, a) {
			return
		}
	}
	a.write(w)
}

// arrive records a call and returns the faults that match it.
func (s *Server) arrive(x *exchange) []*Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name(x)
	s.requests = append(s.requests, x.request)
	return s.match(*x.request)
}

// carryOut carries out the operation, unless it was refused.
func (x *exchange) carryOut(faults []*Fault, refused *failure) *answer {
	if refused != nil {
		return encode(nil, refused)
	}
	members, failure := x.run()
	if failure != nil {
		return encode(nil, failure)
	}
	for _, f := range faults {
		if f.Do.change == nil {
			continue
		}
		if members == nil {
			members = make(map[string]any)
		}
		f.Do.change(members)
	}
	return encode(members, nil)
}

// abortIfGone ends the call without an answer if the caller has given up or the server is closing.
func (x *exchange) abortIfGone() {
	select {
	case <-x.http.Context().Done():
	case <-x.server.closing:
	default:
		return
	}
	panic(http.ErrAbortHandler)
}

// read parses the request.
func (x *exchange) read() *failure {
	r := x.http
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	x.request.Operation = operation
	region, account, signed := scope(r.Header.Get("Authorization"))
	x.request.Region, x.request.Account = region, account
	body, err := io.ReadAll(http.MaxBytesReader(x.writer, r.Body, maxRequest))
	if err != nil {
		return fail("SerializationException", "the request could not be read: %v", err)
	}
	if r.Method != http.MethodPost || !ok {
		return fail("UnknownOperationException", "")
	}
	if !signed {
		return fail("MissingAuthenticationTokenException", "Request is missing Authentication Token")
	}
	if err := json.Unmarshal(body, &x.input); err != nil {
		return fail("SerializationException", "%v", err)
	}
	x.request.KeyID = x.input.KeyId
	x.request.EncryptionContext = x.input.EncryptionContext
	if operation == "ReEncrypt" {
		x.request.KeyID = x.input.DestinationKeyId
		x.request.EncryptionContext = x.input.DestinationEncryptionContext
	}
	x.request.GrantTokens, x.request.DryRun = x.input.GrantTokens, x.input.DryRun
	return nil
}

// scope reads the Region and the caller's account from an Authorization header of AWS Signature
// Version 4, whose credential is ACCESS-KEY-ID/DATE/REGION/kms/aws4_request.
func scope(authorization string) (region, account string, ok bool) {
	_, credential, found := strings.Cut(authorization, "Credential=")
	credential, _, _ = strings.Cut(credential, ",")
	parts := strings.Split(strings.TrimSpace(credential), "/")
	if !found || !strings.HasPrefix(authorization, "AWS4-HMAC-SHA256 ") || len(parts) != 5 {
		return "", "", false
	}
	account = Account
	if isAccount(parts[0]) {
		account = parts[0]
	}
	return parts[2], account, true
}

func isAccount(s string) bool { return len(s) == 12 && strings.Trim(s, "0123456789") == "" }

// encode returns the answer in AWS's JSON protocol 1.1.
func encode(members map[string]any, f *failure) *answer {
	a := &answer{status: http.StatusOK, header: http.Header{
		"Content-Type": {contentType}, "X-Amzn-Requestid": {requestID()},
	}}
	var err error
	switch {
	case f != nil:
		a.status = f.status()
		a.header.Set("X-Amzn-Errortype", f.code)
		body := map[string]string{"__type": f.code}
		if f.message != "" {
			body["message"] = f.message
		}
		a.body, err = json.Marshal(body)
	case members != nil:
		a.body, err = json.Marshal(members)
	}
	if err != nil {
		panic(fmt.Sprintf("kmstest: an answer that JSON cannot hold: %v", err))
	}
	return a
}

func (a *answer) write(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the caller may have given up
}

func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return uuid(b)
}

func uuid(b [16]byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
