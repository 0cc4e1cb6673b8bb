package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/awnumar/memcall"
)

const redacted = "[redacted]"

// SecureBytes holds a key outside the garbage-collected heap, in memory that is locked against swapping where the system
// allows it (a process may be out of lockable memory; the key is then held unlocked). Close zeroes it. No print verb, log
// or encoding shows the key. It is safe for concurrent use.
type SecureBytes struct {
	mu      sync.RWMutex
	region  *region // nil once closed
	size    int
	cleanup runtime.Cleanup
}

// region is the memory of one key, which several SecureBytes may share.
type region struct {
	memory []byte
	locked bool
	shares atomic.Int32
}

// release frees the memory once no SecureBytes has it.
func (r *region) release() error {
	if r.shares.Add(-1) > 0 {
		return nil
	}
	clear(r.memory)
	var err error
	if r.locked {
		err = memcall.Unlock(r.memory)
	}
	return errors.Join(err, memcall.Free(r.memory))
}

// NewSecureBytes moves key into secure memory: it is copied there and then zeroed.
// The error holds ErrInvalidKey when key is empty.
func NewSecureBytes(key []byte) (*SecureBytes, error) {
	defer clear(key)
	if len(key) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalidKey)
	}
	memory, err := memcall.Alloc(len(key))
	if err != nil {
		return nil, fmt.Errorf("provider: allocating secure memory: %w", err)
	}
	r := &region{memory: memory, locked: memcall.Lock(memory) == nil}
	copy(memory, key)
	return r.share(len(key)), nil
}

func (r *region) share(size int) *SecureBytes {
	r.shares.Add(1)
	s := &SecureBytes{region: r, size: size}
	// A key that its owner forgot to close is zeroed when it is collected.
	s.cleanup = runtime.AddCleanup(s, func(r *region) { _ = r.release() }, r)
	return s
}

// Share returns another SecureBytes of the same memory, which is zeroed when all that share it are closed. The error holds
// ErrClosed.
func (s *SecureBytes) Share() (*SecureBytes, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.region == nil {
		return nil, fmt.Errorf("secure bytes: %w", ErrClosed)
	}
	return s.region.share(s.size), nil
}

// WithAccess calls operation with the key, which it must neither change nor keep. The error is operation's, or holds ErrClosed.
func (s *SecureBytes) WithAccess(operation func(key []byte) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.region == nil {
		return fmt.Errorf("secure bytes: %w", ErrClosed)
	}
	return operation(s.region.memory[:s.size])
}

// Len returns the key's size in bytes.
func (s *SecureBytes) Len() int { return s.size }

// Close zeroes the key and gives its memory back, unless it is shared. It waits for WithAccess calls under way. A second Close does nothing.
func (s *SecureBytes) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.region == nil {
		return nil
	}
	s.cleanup.Stop()
	r := s.region
	s.region = nil
	if err := r.release(); err != nil {
		return fmt.Errorf("provider: freeing secure memory: %w", err)
	}
	return nil
}

// Format implements fmt.Formatter for every verb.
func (s *SecureBytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (s *SecureBytes) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (s *SecureBytes) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON implements json.Marshaler.
func (s *SecureBytes) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (s *SecureBytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
