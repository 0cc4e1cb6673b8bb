// Package piko stands in for Piko's package of that path: it declares the options of its bootstrap that name crypto providers.
package piko

import "piko.sh/piko/wdk/crypto"

// Option configures a server.
type Option func(*SSRServer)

// SSRServer is a server.
type SSRServer struct {
	providers map[string]crypto.EncryptionProvider
	crypto    string
}

// New returns a server.
func New(options ...Option) *SSRServer {
	s := &SSRServer{providers: make(map[string]crypto.EncryptionProvider)}
	for _, o := range options {
		o(s)
	}
	return s
}

// WithCryptoProvider registers a provider by name.
func WithCryptoProvider(name string, p crypto.EncryptionProvider) Option {
	return func(s *SSRServer) { s.providers[name] = p }
}

// WithDefaultCryptoProvider names the provider to use.
func WithDefaultCryptoProvider(name string) Option {
	return func(s *SSRServer) { s.crypto = name }
}
