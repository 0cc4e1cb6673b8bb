// Package piko stands in for Piko's package of that path: it declares the options of its bootstrap
// that name crypto providers. A Piko application has Piko's own in its place.
package piko

import (
	"piko.sh/piko/internal/bootstrap"
	"piko.sh/piko/internal/crypto/crypto_domain"
)

// Option configures an application.
type Option = bootstrap.Option

// Container holds what an application was configured with.
type Container = bootstrap.Container

// SSRServer is a server.
type SSRServer struct{ options []bootstrap.Option }

// New returns a server.
func New(opts ...bootstrap.Option) *SSRServer { return &SSRServer{options: opts} }

// WithCryptoProvider registers a provider by name.
func WithCryptoProvider(name string, provider crypto_domain.EncryptionProvider) Option {
	return func(c *bootstrap.Container) { c.AddCryptoProvider(name, provider) }
}

// WithDefaultCryptoProvider names the provider to use.
func WithDefaultCryptoProvider(name string) Option {
	return func(c *bootstrap.Container) { c.SetCryptoDefaultProvider(name) }
}
