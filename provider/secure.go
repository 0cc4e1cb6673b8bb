package provider

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// redacted is what prints, logs and encodings show in place of a secret.
const redacted = "[redacted]"

// SecureBytes holds a key outside the garbage-collected heap. Where the system allows it, the
// memory is locked against swapping, and on Linux it is left out of core dumps. When a process is
// out of lockable memory, the key is held unlocked, and so are later ones in the same page; the
// first time, [slog.Default] gets a warning. In WebAssembly, it is in Go's heap, with the same
// warning. Close zeroes the key. No print verb, log or encoding
// shows it. A SecureBytes is safe for concurrent use.
type SecureBytes struct {
	mu     sync.RWMutex
	region *region // nil once closed
	size   int
	closed error // what the first Close returned
}

// region is the memory of one key, which several SecureBytes may share.
type region struct {
	place
	shares  atomic.Int32
	cleanup runtime.Cleanup
}

// place is where a key is stored: a slot, or pages of its own for a larger key.
type place struct {
	memory []byte
	pages  *pages
}

func newPlace(size int) (place, error) {
	if size <= slotSize {
		slot, err := takeSlot()
		return place{memory: slot}, err
	}
	p, err := newPages(size)
	if err != nil {
		return place{}, err
	}
	return place{p.memory, p}, nil
}

func (p place) free() error {
	clear(p.memory)
	if p.pages == nil {
		returnSlot(p.memory)
		return nil
	}
	return p.pages.free()
}

// pages is memory from the operating system.
type pages struct {
	memory []byte
	locked bool
}

func newPages(n int) (*pages, error) {
	memory, err := allocate(n)
	if err != nil {
		return nil, fmt.Errorf("provider: allocating secure memory: %w", err)
	}
	err = lock(memory)
	if err != nil {
		warnUnlocked(err)
	}
	return &pages{memory, err == nil}, nil
}

var warned sync.Once

// warnUnlocked warns, once for the process, that keys may be swapped to a disk.
func warnUnlocked(err error) {
	warned.Do(func() {
		slog.Warn(unlockedWarning, "error", err)
	})
}

func (p *pages) free() error {
	var err error
	if p.locked {
		err = unlock(p.memory)
	}
	return errors.Join(err, release(p.memory))
}

// slotSize is the size in bytes of a slot, the memory of one data key. Several slots share a page.
// The system locks whole pages, only few of them for each process, and takes tens of microseconds
// for one.
const slotSize = 64

// slots are the free slots. They are all zero, and their pages are never given back.
var slots struct {
	sync.Mutex
	free [][]byte
}

func takeSlot() ([]byte, error) {
	slots.Lock()
	defer slots.Unlock()
	if len(slots.free) == 0 {
		p, err := newPages(os.Getpagesize())
		if err != nil {
			return nil, err
		}
		for slot := range slices.Chunk(p.memory, slotSize) {
			slots.free = append(slots.free, slot)
		}
	}
	last := len(slots.free) - 1
	slot := slots.free[last]
	slots.free = slots.free[:last]
	return slot, nil
}

func returnSlot(slot []byte) {
	slots.Lock()
	defer slots.Unlock()
	slots.free = append(slots.free, slot)
}

func (r *region) share(size int) *SecureBytes {
	r.shares.Add(1)
	return &SecureBytes{region: r, size: size}
}

// release frees the memory when no SecureBytes uses it any more.
func (r *region) release() error {
	if r.shares.Add(-1) > 0 {
		return nil
	}
	r.cleanup.Stop()
	err := r.free()
	runtime.KeepAlive(r) // keeps the cleanup from running before this
	return err
}

// NewSecureBytes copies key to secure memory and zeroes key. The error holds ErrInvalidKey if key
// is empty.
func NewSecureBytes(key []byte) (*SecureBytes, error) {
	defer clear(key)
	if len(key) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalidKey)
	}
	at, err := newPlace(len(key))
	if err != nil {
		return nil, err
	}
	r := &region{place: at}
	copy(r.memory, key)
	// If nobody closes a key, it is zeroed when the last SecureBytes that shares it is collected.
	// The cleanup watches the region, not each SecureBytes, so Share is cheap.
	r.cleanup = runtime.AddCleanup(r, func(p place) { _ = p.free() }, at)
	return r.share(len(key)), nil
}

// DataKeySize is the size in bytes of a new data key, that of both suites in which messages are
// written.
const DataKeySize = 32

// RandomKey returns a key of size bytes from the system's random number generator. The error holds
// ErrInvalidKey if size is 0.
func RandomKey(size int) (*SecureBytes, error) {
	key := make([]byte, size)
	_, _ = rand.Read(key) // never fails
	return NewSecureBytes(key)
}

// Share returns another SecureBytes of the same memory. The memory is zeroed when all that share it
// are closed. The error holds ErrClosed.
func (s *SecureBytes) Share() (*SecureBytes, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.region == nil {
		return nil, fmt.Errorf("secure bytes: %w", ErrClosed)
	}
	return s.region.share(s.size), nil
}

// WithAccess calls operation with the key, which operation must neither change nor keep. The error
// is operation's, or holds ErrClosed.
func (s *SecureBytes) WithAccess(operation func(key []byte) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.region == nil {
		return fmt.Errorf("secure bytes: %w", ErrClosed)
	}
	return operation(s.region.memory[:s.size:s.size])
}

// Len returns the key's size in bytes.
func (s *SecureBytes) Len() int { return s.size }

// Close zeroes the key and frees its memory, unless it is shared. It waits for calls of WithAccess
// that are under way. A second Close returns what the first one returned.
func (s *SecureBytes) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.region == nil {
		return s.closed
	}
	r := s.region
	s.region = nil
	if err := r.release(); err != nil {
		s.closed = fmt.Errorf("provider: freeing secure memory: %w", err)
	}
	return s.closed
}

// Format implements fmt.Formatter for every verb.
func (s *SecureBytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements encoding.TextMarshaler. Package encoding/json and the handlers of package
// log/slog call it, too.
func (s *SecureBytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
