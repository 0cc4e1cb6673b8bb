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
	mu     sync.RWMutex
	region *region // nil once closed
	size   int
}

// region is the memory of one key, which several SecureBytes may share.
type region struct {
	pages
	shares  atomic.Int32
	cleanup runtime.Cleanup
}

// pages are memory of the system's.
type pages struct {
	memory []byte
	locked bool
}

func (p pages) free() error {
	clear(p.memory)
	var err error
	if p.locked {
		err = memcall.Unlock(p.memory)
	}
	return errors.Join(err, memcall.Free(p.memory))
}

func (r *region) share(size int) *SecureBytes {
	r.shares.Add(1)
	return &SecureBytes{region: r, size: size}
}

// release frees the memory once no SecureBytes has it.
func (r *region) release() error {
	if r.shares.Add(-1) > 0 {
		return nil
	}
	r.cleanup.Stop()
	err := r.free()
	runtime.KeepAlive(r) // until here, so that the cleanup has not begun
	return err
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
	r := &region{pages: pages{memory, memcall.Lock(memory) == nil}}
	copy(memory, key)
	// A key that an owner forgot to close is zeroed when the last that shares it is collected. To watch the region instead of each
	// SecureBytes makes Share cheap.
	r.cleanup = runtime.AddCleanup(r, func(p pages) { _ = p.free() }, r.pages)
	return r.share(len(key)), nil
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
