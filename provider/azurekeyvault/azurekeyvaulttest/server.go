// Package azurekeyvaulttest is an Azure Key Vault, with the AES keys of a managed HSM, in the
// process, for tests. Over Azure's REST API it serves the operations GetKey, WrapKey, UnwrapKey,
// UpdateKey (of attributes), DeleteKey, GetDeletedKey, RecoverDeletedKey and PurgeDeletedKey. It
// checks what Azure checks, answers in its words, and takes the faults of package kmstest.
package azurekeyvaulttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"piko.sh/pikokms/kmstest"
)

// Vault is the host name of the vault.
const Vault = "test-vault.vault.azure.net"

// Server is a vault, which asks for no token, as emulators do. It is safe for concurrent use.
type Server struct {
	*kmstest.Endpoint // receives the calls

	mu   sync.Mutex
	keys map[string]*key
}

// NewServer starts a server, which runs until the test ends.
func NewServer(t testing.TB) *Server {
	s := &Server{keys: make(map[string]*key)}
	s.Endpoint = kmstest.NewEndpoint(s.describe, http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Error is a fault's action that answers with an error of a vault. The inner code may be empty.
func Error(status int, code, inner, message string) kmstest.Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		answer(w, &failure{status, code, inner, message})
	}
}

// Throttle is a fault's action that answers that there are too many requests, and after how many
// seconds to ask again.
func Throttle(seconds int) kmstest.Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		answer(w, &failure{http.StatusTooManyRequests, "Throttled", "", "Request was not processed because too many requests were received."})
	}
}

// describe returns what is recorded of a request: its operation and the name of its key.
func (s *Server) describe(r *http.Request, _ []byte) kmstest.Request {
	operation, name, _ := s.route(r)
	return kmstest.Request{Operation: operation, KeyID: name}
}

// serve carries out the operation of a request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	_, _, serve := s.route(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	result, err := serve(r)
	if err != nil {
		answer(w, err)
		return
	}
	if result == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(result) // the client may be gone
}

// route returns the operation that a request asks for, and the name of its key. The current version
// is left out of the path.
func (s *Server) route(r *http.Request) (operation, name string, serve func(*http.Request) (any, *failure)) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	name = at(1)
	version := ""
	if len(parts) == 4 {
		version = at(2)
	}
	if r.URL.Query().Get("api-version") == "" {
		return "", name, refuse(&failure{http.StatusBadRequest, "BadParameter", "", "api-version must be specified"})
	}
	switch place := at(0); {
	case place == "keys" && r.Method == http.MethodGet && len(parts) <= 3:
		return "GetKey", name, func(*http.Request) (any, *failure) { return s.get(name, at(2)) }
	case place == "keys" && r.Method == http.MethodPatch && len(parts) == 3:
		return "UpdateKey", name, func(r *http.Request) (any, *failure) { return s.update(name, at(2), r) }
	case place == "keys" && r.Method == http.MethodDelete && len(parts) == 2:
		return "DeleteKey", name, func(*http.Request) (any, *failure) { return s.delete(name) }
	case place == "deletedkeys" && r.Method == http.MethodGet && len(parts) == 2:
		return "GetDeletedKey", name, func(*http.Request) (any, *failure) { return s.getDeleted(name) }
	case place == "deletedkeys" && r.Method == http.MethodPost && len(parts) == 3 && at(2) == "recover":
		return "RecoverDeletedKey", name, func(*http.Request) (any, *failure) { return s.recover(name) }
	case place == "deletedkeys" && r.Method == http.MethodDelete && len(parts) == 2:
		return "PurgeDeletedKey", name, func(*http.Request) (any, *failure) { return s.purge(name) }
	case place != "keys" || r.Method != http.MethodPost || len(parts) < 3 || len(parts) > 4:
	case parts[len(parts)-1] == "wrapkey":
		return "WrapKey", name, func(r *http.Request) (any, *failure) { return s.wrap(name, version, r) }
	case parts[len(parts)-1] == "unwrapkey":
		return "UnwrapKey", name, func(r *http.Request) (any, *failure) { return s.unwrap(name, version, r) }
	}
	return "", name, refuse(&failure{http.StatusNotFound, "NotFound", "", "there is no such operation"})
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
