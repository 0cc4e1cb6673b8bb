package kmstest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
)

const maxRequest = 1 << 20 // bytes; far more than the largest request of a key service has

// Endpoint is the HTTP server of a key service for tests. It records the calls that reach it, and
// applies faults to them. A [Server] has one, and so do the servers of packages gcpkmstest and
// azurekeyvaulttest. It is safe for concurrent use.
type Endpoint struct {
	URL string // such as "http://127.0.0.1:41234"

	server   *httptest.Server
	describe func(r *http.Request, body []byte) Request
	handler  http.Handler

	mu       sync.Mutex
	faults   []*Fault
	requests []*Request
	cancels  map[*context.CancelFunc]struct{} // of the calls that are under way
	ended    sync.Cond                        // a call is no longer under way
	closed   bool
}

// NewEndpoint starts a server of a key service, whose calls the handler carries out. The function
// describe returns what is recorded of a call. The server speaks HTTP/1.1, and HTTP/2 without TLS.
// The caller closes it.
func NewEndpoint(describe func(r *http.Request, body []byte) Request, handler http.Handler) *Endpoint {
	e := &Endpoint{describe: describe, handler: handler, cancels: make(map[*context.CancelFunc]struct{})}
	e.ended.L = &e.mu
	e.server = httptest.NewUnstartedServer(e)
	e.server.Config.Protocols = new(http.Protocols)
	e.server.Config.Protocols.SetHTTP1(true)
	e.server.Config.Protocols.SetUnencryptedHTTP2(true)
	e.server.Start()
	e.URL = e.server.URL
	return e
}

// Close ends all calls that are under way, stalled ones too, and stops the server. It returns when
// no goroutine of the server is left. Connections are refused from then on.
func (e *Endpoint) Close() {
	e.mu.Lock()
	closed := e.closed
	e.closed = true
	for cancel := range e.cancels {
		(*cancel)()
	}
	e.mu.Unlock()
	if closed {
		return
	}
	e.server.CloseClientConnections()
	e.server.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.cancels) > 0 { // the HTTP server does not wait for hijacked connections
		e.ended.Wait()
	}
}

// Request is one call that reached a server. Fields that its service does not have are empty.
type Request struct {
	Operation string // such as "Decrypt"
	Region    string
	Account   string // of the caller

	KeyID             string // as the caller gave it; for ReEncrypt, DestinationKeyId
	KeyARN            string // of the key that the caller or the ciphertext names; empty if there is none
	SourceKeyARN      string // of the key of ReEncrypt's source; empty if there is none
	EncryptionContext map[string]string
	GrantTokens       []string
	DryRun            bool

	Error string // code of the error of AWS KMS that was answered, such as "NotFoundException"
}

// Calls returns how many calls of an operation reached the server, successful or not. A retry
// counts as a call. An empty operation counts all calls.
func (e *Endpoint) Calls(operation string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, r := range e.requests {
		if operation == "" || r.Operation == operation {
			n++
		}
	}
	return n
}

// Requests returns the calls that reached the server since it started, or since [Endpoint.Reset],
// in the order of their arrival.
func (e *Endpoint) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	requests := make([]Request, len(e.requests))
	for i, r := range e.requests {
		requests[i] = *r
	}
	return requests
}

// Reset forgets all calls so far, so [Endpoint.Calls] counts from zero again. Keys and faults stay.
func (e *Endpoint) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = nil
}

// Inject adds a fault. It stays until it has acted Times times, or until remove is called. If
// several faults match a call, all of them act: the next of a fault is the fault that was added
// after it. So delays add up, and the first error is sent.
func (e *Endpoint) Inject(f Fault) (remove func()) {
	if f.Do == nil {
		panic("kmstest: a Fault without Do")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	injected := &f
	e.faults = append(e.faults, injected)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.faults = slices.DeleteFunc(e.faults, func(other *Fault) bool { return other == injected })
	}
}

// Heal removes all faults. Calls that a fault has stalled stay stalled.
func (e *Endpoint) Heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = nil
}

// recordKey is the key of a call's record in the context of its request.
type recordKey struct{}

// record is what an Endpoint keeps of a call.
type record struct {
	endpoint *Endpoint
	request  *Request // guarded by the endpoint's mu
}

// recordOf returns the record of a call.
func recordOf(r *http.Request) record { return r.Context().Value(recordKey{}).(record) }

// fails records the code of the error that is answered.
func (r record) fails(code string) {
	r.endpoint.mu.Lock()
	defer r.endpoint.mu.Unlock()
	r.request.Error = code
}

// ServeHTTP records a call, applies faults to it, and carries it out. A test can call it in place
// of the network.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	e.begin(&cancel)
	defer e.end(&cancel)
	// Once the body is read, the HTTP server notices the end of the connection.
	var body []byte
	rest := io.Reader(http.NoBody)
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest)); err != nil {
			rest = failing{err}
		}
	}
	request := e.describe(r, body)
	e.mu.Lock()
	e.requests = append(e.requests, &request)
	matching := e.match(request)
	e.mu.Unlock()

	r = r.WithContext(context.WithValue(ctx, recordKey{}, record{e, &request}))
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), rest))
	next := e.handler
	for _, f := range slices.Backward(matching) {
		inner := next
		next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.Do(w, r, inner) })
	}
	next.ServeHTTP(w, r)
}

// begin adds a call to those that Close ends and waits for.
func (e *Endpoint) begin(cancel *context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancels[cancel] = struct{}{}
	if e.closed {
		(*cancel)()
	}
}

func (e *Endpoint) end(cancel *context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.cancels, cancel)
	e.ended.Broadcast()
}

// failing is a body that could not be read to its end.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// match returns the faults that match a call, and counts the call for each. The caller holds the
// lock.
func (e *Endpoint) match(r Request) []*Fault {
	var matching []*Fault
	for _, f := range e.faults {
		if f.Operation != "" && f.Operation != r.Operation || f.Key != "" && !f.concerns(r) || f.When != nil && !f.When(r) {
			continue
		}
		f.seen++
		if f.seen > f.After && (f.Times == 0 || f.seen <= f.After+f.Times) {
			matching = append(matching, f)
		}
	}
	return matching
}
