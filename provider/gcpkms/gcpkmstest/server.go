// Package gcpkmstest is a Google Cloud KMS in the process, for tests. It serves the methods of
// symmetric encryption over gRPC, checks what Cloud KMS checks, and answers in its words. It
// takes the faults of package kmstest, and [Intercept] makes more of them.
package gcpkmstest

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"piko.sh/pikokms/kmstest"
)

// The parents of the keys that CreateKey makes.
const (
	Project  = "test-project"
	Location = "europe-west1"
	KeyRing  = "test-ring"
)

// Server is a Cloud KMS. It is safe for concurrent use.
type Server struct {
	*kmstest.Endpoint // receives the calls, over gRPC

	mu   sync.Mutex
	keys map[string]*key
}

// methods implements the methods that the server serves.
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

// Error is a fault's action that answers with an error of gRPC.
func Error(code codes.Code, message string) kmstest.Action {
	return Intercept(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(code, message)
	})
}

// Intercept is a fault's action that may change the request and the answer, which are those of
// package kmspb.
func Intercept(by grpc.UnaryServerInterceptor) kmstest.Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		all := append(slices.Clip(interceptors(r.Context())), by)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), interceptorsKey{}, all)))
	}
}

type interceptorsKey struct{}

// interceptors returns the interceptors of a call, the outermost first.
func interceptors(ctx context.Context) []grpc.UnaryServerInterceptor {
	all, _ := ctx.Value(interceptorsKey{}).([]grpc.UnaryServerInterceptor)
	return all
}

// intercept calls the method of a call through the call's interceptors.
func intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	for _, by := range slices.Backward(interceptors(ctx)) {
		inner := handler
		handler = func(ctx context.Context, request any) (any, error) { return by(ctx, request, info, inner) }
	}
	return handler(ctx, request)
}

// NewServer starts a server, which runs until the test ends.
func NewServer(t testing.TB) *Server {
	s := &Server{keys: make(map[string]*key)}
	server := grpc.NewServer(grpc.UnaryInterceptor(intercept))
	kmspb.RegisterKeyManagementServiceServer(server, &methods{Server: s})
	s.Endpoint = kmstest.NewEndpoint(describe, server)
	t.Cleanup(s.Close)
	return s
}

// describe returns what is recorded of a call: its method and the resource name of its key.
func describe(r *http.Request, body []byte) kmstest.Request {
	return kmstest.Request{Operation: path.Base(r.URL.Path), KeyID: keyOf(body)}
}

// keyOf returns the resource name in a request, which is the first field of each of them. In gRPC
// over HTTP/2 a request begins with 5 bytes, a flag and a length.
func keyOf(body []byte) string {
	const prefix, field = 5, 1
	if len(body) < prefix {
		return ""
	}
	number, kind, n := protowire.ConsumeTag(body[prefix:])
	if n < 0 || number != field || kind != protowire.BytesType {
		return ""
	}
	name, n := protowire.ConsumeString(body[prefix+n:])
	if n < 0 {
		return ""
	}
	return name
}

// Options returns options with which Google's clients call this server.
func (s *Server) Options() []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(strings.TrimPrefix(s.URL, "http://")),
		option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

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
