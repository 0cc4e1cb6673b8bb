package kmstest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Account is the AWS account of keys that state none, and of callers whose access key ID is not an
// account.
const Account = "111122223333"

// Region is the Region of keys that state none.
const Region = "eu-west-1"

const contentType = "application/x-amz-json-1.1"

// Server is an AWS KMS. It is safe for concurrent use.
type Server struct {
	*Endpoint // receives the calls

	mu      sync.Mutex
	keys    []*key
	aliases map[aliasName]*key
}

type aliasName struct{ region, account, name string }

// New starts a server. The caller closes it.
func New() *Server {
	s := &Server{aliases: make(map[aliasName]*key)}
	s.Endpoint = NewEndpoint(s.describe, http.HandlerFunc(s.serve))
	return s
}

// NewServer starts a server that is closed when the test ends.
func NewServer(t testing.TB) *Server {
	s := New()
	t.Cleanup(s.Close)
	return s
}

// exchange is one call that is under way.
type exchange struct {
	server  *Server
	request Request
	input   input
	rsa     []func() *rsa.PrivateKey // of the keys that the call uses
}

// describe returns what is recorded of a call.
func (s *Server) describe(r *http.Request, body []byte) Request {
	x, _ := s.parse(r, body)
	return x.request
}

// serve carries out the operation of a call.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		answer(w, r, nil, fail("SerializationException", "the request could not be read: %v", err))
		return
	}
	x, failure := s.parse(r, body)
	var members map[string]any
	if failure == nil {
		members, failure = x.run()
	}
	answer(w, r, members, failure)
}

// parse parses a request, and looks up the keys that it names.
func (s *Server) parse(r *http.Request, body []byte) (*exchange, *failure) {
	x := &exchange{server: s}
	failure := x.read(r, body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookUpKeys(x)
	return x, failure
}

// read parses a request.
func (x *exchange) read(r *http.Request, body []byte) *failure {
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	x.request.Operation = operation
	region, account, signed := scope(r.Header.Get("Authorization"))
	x.request.Region, x.request.Account = region, account
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

// answer answers in AWS's JSON protocol 1.1.
func answer(w http.ResponseWriter, r *http.Request, members map[string]any, f *failure) {
	status := http.StatusOK
	var body []byte
	switch {
	case f != nil:
		status = f.status()
		w.Header().Set("X-Amzn-Errortype", f.code)
		recordOf(r).fails(f.code)
		members = map[string]any{"__type": f.code}
		if f.message != "" {
			members["message"] = f.message
		}
		body = marshal(members)
	case members != nil:
		body = marshal(members)
	}
	send(w, &http.Response{StatusCode: status, Header: http.Header{
		"Content-Type": {contentType}, "X-Amzn-Requestid": {requestID()},
	}}, body)
}

func marshal(members map[string]any) []byte {
	body, err := json.Marshal(members)
	if err != nil {
		panic(fmt.Sprintf("kmstest: an answer that JSON cannot hold: %v", err))
	}
	return body
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
