// Package gcpkmstest is a Google Cloud KMS in the process, for tests. It serves the methods of
// symmetric encryption over gRPC, checks what Cloud KMS checks, and answers in its words. Faults
// can be put before every method.
package gcpkmstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The parents of the keys that CreateKey makes.
const (
	Project  = "test-project"
	Location = "europe-west1"
	KeyRing  = "test-ring"
)

// Server is a Cloud KMS. It is safe for concurrent use.
type Server struct {
	URL string // http://HOST:PORT

	grpc   *grpc.Server
	mu     sync.Mutex
	keys   map[string]*key
	calls  map[string]int
	faults []*Fault
}

const scheme = "http://"

// methods are those that the server serves.
type methods struct {
	kmspb.UnimplementedKeyManagementServiceServer
	*Server
}

// Key says what kind of key to make. The zero Key is a symmetric key for ENCRYPT_DECRYPT.
type Key struct {
	Name    string // the last part of the resource name; default "key-" and a number
	Purpose kmspb.CryptoKey_CryptoKeyPurpose
	HSM     bool // of protection level HSM, which takes less at once
}

// Fault replaces what methods do.
type Fault struct {
	Operation string // such as "Encrypt"; empty for all

	// Do answers a call. It may call next for Cloud KMS's own answer, with the request or a changed
	// one.
	Do func(ctx context.Context, request proto.Message, next Next) (proto.Message, error)
}

// Next answers a call as Cloud KMS does.
type Next func(ctx context.Context, request proto.Message) (proto.Message, error)

// Error returns what a fault does that fails with a gRPC code.
func Error(code codes.Code, message string) func(context.Context, proto.Message, Next) (proto.Message, error) {
	return func(context.Context, proto.Message, Next) (proto.Message, error) {
		return nil, status.Error(code, message)
	}
}

// Delay returns what a fault does that answers later, or never if the caller does not wait.
func Delay(by time.Duration) func(context.Context, proto.Message, Next) (proto.Message, error) {
	return func(ctx context.Context, request proto.Message, next Next) (proto.Message, error) {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			return next(ctx, request)
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// NewServer starts a server, which runs until the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{URL: scheme + listener.Addr().String(), keys: make(map[string]*key), calls: make(map[string]int)}
	s.grpc = grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	kmspb.RegisterKeyManagementServiceServer(s.grpc, &methods{Server: s})
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(listener) }()
	t.Cleanup(func() {
		s.grpc.Stop()
		// A test can be over before the server begins to serve.
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("the Cloud KMS of the test: %v", err)
		}
	})
	return s
}

// Options are options of Google's clients that ask this server.
func (s *Server) Options() []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(strings.TrimPrefix(s.URL, scheme)),
		option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// ServeHTTP serves gRPC behind another HTTP/2 server.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.grpc.ServeHTTP(w, r) }

// Stop ends the server, as in an outage. It does not start again.
func (s *Server) Stop() { s.grpc.Stop() }

// CreateKey makes a key with one version and returns its resource name.
func (s *Server) CreateKey(k Key) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.Name == "" {
		k.Name = fmt.Sprintf("key-%d", len(s.keys)+1)
	}
	if k.Purpose == 0 {
		k.Purpose = kmspb.CryptoKey_ENCRYPT_DECRYPT
	}
	name := fmt.Sprintf("projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s", Project, Location, KeyRing, k.Name)
	made := &key{name: name, purpose: k.Purpose, created: timestamppb.Now(), level: kmspb.ProtectionLevel_SOFTWARE}
	if k.HSM {
		made.level = kmspb.ProtectionLevel_HSM
	}
	made.rotate()
	s.keys[name] = made
	return name
}

// Rotate gives a key a new primary version and returns its number.
func (s *Server) Rotate(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].rotate()
	return s.keys[name].primary
}

// SetState sets the state of a version of a key. The first version is 1. A destroyed version is
// gone for good.
func (s *Server) SetState(name string, number int, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.keys[name].versions[number-1]
	v.state = state
	if state == kmspb.CryptoKeyVersion_DESTROYED {
		clear(v.material)
	}
}

// SetPrimary sets the primary version of a key; 0 means none.
func (s *Server) SetPrimary(name string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name].primary = number
}

// Inject puts a fault before the methods, after those that were put there before. The returned
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

// Calls returns how often a method was called since the last Reset, or all methods if it is empty.
func (s *Server) Calls(method string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for called, times := range s.calls {
		if method == "" || method == called {
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

// intercept counts a call and puts the faults before it.
func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[len("/google.cloud.kms.v1.KeyManagementService/"):]
	s.mu.Lock()
	s.calls[method]++
	faults := slices.Clone(s.faults)
	s.mu.Unlock()

	next := func(ctx context.Context, request proto.Message) (proto.Message, error) {
		answer, err := handler(ctx, request)
		if err != nil {
			return nil, err
		}
		return answer.(proto.Message), nil
	}
	for _, f := range slices.Backward(faults) {
		if f.Operation == "" || f.Operation == method {
			behind := next
			next = func(ctx context.Context, request proto.Message) (proto.Message, error) {
				return f.Do(ctx, request, behind)
			}
		}
	}
	return next(ctx, request.(proto.Message))
}
