// Package azurekeyvaulttest is an Azure Key Vault, with the AES keys of a managed HSM, in the
// process, for tests. It serves what wraps and unwraps keys over Azure's REST API, checks what
// Azure checks, and answers in its words. Faults can be put before every operation.
package azurekeyvaulttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Vault is the host name of the vault.
const Vault = "test-vault.vault.azure.net"

// Server is a vault. It is safe for concurrent use.
type Server struct {
	URL       string // http://…, where it asks for no token, as emulators do
	SecureURL string // https://…, where it asks for a token of Credential

	Transport  *http.Client // for SecureURL
	Credential *Credential

	mu     sync.Mutex
	keys   map[string]*key
	calls  map[string]int
	faults []*Fault
}

// Fault replaces what operations do.
type Fault struct {
	Operation string // "GetKey", "GetDeletedKey", "WrapKey" or "UnwrapKey"; empty for all

	// Do answers a request. It may call next for the vault's own answer.
	Do func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// Error returns what a fault does that fails. The inner code may be empty.
func Error(status int, code, inner, message string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		answer(w, &failure{status, code, inner, message})
	}
}

// Throttle returns what a fault does that answers that there are too many requests, and after how
// many seconds to ask again.
func Throttle(seconds int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		answer(w, &failure{http.StatusTooManyRequests, "Throttled", "", "Request was not processed because too many requests were received."})
	}
}

// Delay returns what a fault does that answers later, or never if the caller does not wait.
func Delay(by time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, err := io.ReadAll(r.Body) // only then is the end of the connection noticed
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// NewServer starts a server, which runs until the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{keys: make(map[string]*key), calls: make(map[string]int), Credential: new(Credential)}
	open := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(open.Close)
	secure := httptest.NewTLSServer(s.Credential.guard(http.HandlerFunc(s.serve)))
	t.Cleanup(secure.Close)
	s.URL, s.SecureURL, s.Transport = open.URL, secure.URL, secure.Client()
	return s
}

// Inject puts a fault before the operations, after those that were put there before. The returned
// function removes it.
func (s *Server) Inject(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(other *Fault) bool { return other == &f })
	}
}

// Calls returns how often an operation was asked for since the last Reset, or all operations if it
// is empty.
func (s *Server) Calls(operation string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for called, times := range s.calls {
		if operation == "" || operation == called {
			n += times
		}
	}
	return n
}

// Reset sets the counts of calls to 0.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
}

// ServeHTTP serves the vault without asking for a token.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serve(w, r) }

// serve counts a request and puts the faults before it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	operation, serve := s.route(r)
	s.mu.Lock()
	s.calls[operation]++
	faults := slices.Clone(s.faults)
	s.mu.Unlock()

	var next http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		result, err := serve(r)
		if err != nil {
			answer(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_ = json.NewEncoder(w).Encode(result) // the client may be gone
	})
	for _, f := range slices.Backward(faults) {
		if f.Operation == "" || f.Operation == operation {
			behind := next
			next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.Do(w, r, behind) })
		}
	}
	next.ServeHTTP(w, r)
}

// route returns the operation that a request asks for. The current version is left out of the path.
func (s *Server) route(r *http.Request) (operation string, serve func(*http.Request) (any, *failure)) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	version := ""
	if len(parts) == 4 {
		version = at(2)
	}
	if r.URL.Query().Get("api-version") == "" {
		return "", refuse(&failure{http.StatusBadRequest, "BadParameter", "", "api-version must be specified"})
	}
	switch {
	case r.Method == http.MethodGet && at(0) == "keys" && len(parts) <= 3:
		return "GetKey", func(*http.Request) (any, *failure) { return s.get(at(1), at(2)) }
	case r.Method == http.MethodGet && at(0) == "deletedkeys" && len(parts) == 2:
		return "GetDeletedKey", func(*http.Request) (any, *failure) { return s.getDeleted(at(1)) }
	case r.Method != http.MethodPost || at(0) != "keys" || len(parts) < 3 || len(parts) > 4:
	case parts[len(parts)-1] == "wrapkey":
		return "WrapKey", func(r *http.Request) (any, *failure) { return s.wrap(at(1), version, r) }
	case parts[len(parts)-1] == "unwrapkey":
		return "UnwrapKey", func(r *http.Request) (any, *failure) { return s.unwrap(at(1), version, r) }
	}
	return "", refuse(&failure{http.StatusNotFound, "NotFound", "", "there is no such operation"})
}

func refuse(f *failure) func(*http.Request) (any, *failure) {
	return func(*http.Request) (any, *failure) { return nil, f }
}

// failure is an error of a vault.
type failure struct {
	status               int
	code, inner, message string
}

func answer(w http.ResponseWriter, f *failure) {
	type code struct {
		Code string `json:"code"`
	}
	var body struct {
		Error struct {
			Code       string `json:"code"`
			Message    string `json:"message"`
			InnerError *code  `json:"innererror,omitempty"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = f.code, f.message
	if f.inner != "" {
		body.Error.InnerError = &code{f.inner}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
