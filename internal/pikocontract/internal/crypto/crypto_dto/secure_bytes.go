package crypto_dto

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// SecureBytes has the methods of Piko's secure memory. This one is ordinary memory.
type SecureBytes struct {
	mu   sync.RWMutex
	id   string
	size int
	data []byte // nil once closed
}

var (
	_ io.Closer = (*SecureBytes)(nil)
	_ io.Reader = (*SecureBytes)(nil)

	errClosed = errors.New("secure bytes already closed")
)

// Option configures SecureBytes.
type Option func(*SecureBytes)

// WithID names the bytes for logs.
func WithID(id string) Option { return func(s *SecureBytes) { s.id = id } }

// NewSecureBytes returns zeros.
func NewSecureBytes(size int, opts ...Option) (*SecureBytes, error) {
	if size <= 0 {
		return nil, fmt.Errorf("size must be positive: got %d", size)
	}
	s := &SecureBytes{size: size, data: make([]byte, size)}
	for _, o := range opts {
		o(s)
	}
	return s, nil
}

// NewSecureBytesFromSlice copies source.
func NewSecureBytesFromSlice(source []byte, opts ...Option) (*SecureBytes, error) {
	s, err := NewSecureBytes(len(source), opts...)
	if err != nil {
		return nil, err
	}
	copy(s.data, source)
	return s, nil
}

// ID returns the name.
func (s *SecureBytes) ID() string { return s.id }

// Len returns the size in bytes, also after Close.
func (s *SecureBytes) Len() int { return s.size }

// IsClosed reports whether Close was called.
func (s *SecureBytes) IsClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data == nil
}

// Read copies the bytes to p, from the start at every call.
func (s *SecureBytes) Read(p []byte) (n int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.data == nil {
		return 0, errClosed
	}
	if n = copy(p, s.data); n < len(s.data) {
		return n, io.ErrShortBuffer
	}
	return n, io.EOF
}

// WithAccess calls operation with the bytes.
func (s *SecureBytes) WithAccess(operation func(data []byte) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.data == nil {
		return errClosed
	}
	return operation(s.data)
}

// Clone returns a copy, which is closed on its own.
func (s *SecureBytes) Clone() (*SecureBytes, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.data == nil {
		return nil, errClosed
	}
	return NewSecureBytesFromSlice(bytes.Clone(s.data), WithID(s.id))
}

// Close zeroes the bytes.
func (s *SecureBytes) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.data)
	s.data = nil
	return nil
}
