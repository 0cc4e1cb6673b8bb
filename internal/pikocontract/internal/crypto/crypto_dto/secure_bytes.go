// Package crypto_dto stands in for Piko's package of that path: it declares the signatures that a provider compiles against,
// and behaves as much as that provider's tests need. A Piko application has Piko's own in its place.
package crypto_dto

import (
	"errors"
	"sync"
)

// SecureBytes has the methods of Piko's secure memory. This one is ordinary memory.
type SecureBytes struct {
	mu   sync.RWMutex
	id   string
	data []byte // nil once closed
}

// Option configures SecureBytes.
type Option func(*SecureBytes)

// WithID names the bytes for logs.
func WithID(id string) Option { return func(s *SecureBytes) { s.id = id } }

// NewSecureBytesFromSlice copies source.
func NewSecureBytesFromSlice(source []byte, options ...Option) (*SecureBytes, error) {
	if len(source) == 0 {
		return nil, errors.New("size must be positive")
	}
	s := &SecureBytes{data: append([]byte(nil), source...)}
	for _, o := range options {
		o(s)
	}
	return s, nil
}

// ID returns the name.
func (s *SecureBytes) ID() string { return s.id }

// Len returns the size in bytes.
func (s *SecureBytes) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.data)
}

// WithAccess calls operation with the bytes.
func (s *SecureBytes) WithAccess(operation func(data []byte) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.data == nil {
		return errors.New("secure bytes already closed")
	}
	return operation(s.data)
}

// Close zeroes the bytes.
func (s *SecureBytes) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.data)
	s.data = nil
	return nil
}
