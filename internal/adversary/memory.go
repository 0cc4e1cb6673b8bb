package adversary

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"piko.sh/pikokms"
)

// Memory is a storage in memory. It is safe for concurrent use.
type Memory struct {
	mu      sync.Mutex
	objects map[string]stored
	puts    int
}

type stored struct {
	content []byte
	version string
	time    time.Time
}

// NewMemory returns an empty storage.
func NewMemory() *Memory { return &Memory{objects: make(map[string]stored)} }

var _ FullStorage = (*Memory)(nil)

// Bytes returns a copy of what is stored under key, or nil.
func (m *Memory) Bytes(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.objects[key].content)
}

// Put implements pikokms.Storage.
func (m *Memory) Put(ctx context.Context, key string, content io.Reader) error {
	return m.put(ctx, key, content, func() bool { return true })
}

// PutIf implements pikokms.ConditionalStorage.
func (m *Memory) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	return m.put(ctx, key, content, func() bool { return m.objects[key].version == version })
}

func (m *Memory) put(ctx context.Context, key string, content io.Reader, allowed func() bool) error {
	var b bytes.Buffer
	if _, err := b.ReadFrom(content); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !allowed() {
		return fmt.Errorf("put %s: %w", key, pikokms.ErrChanged)
	}
	m.puts++
	m.objects[key] = stored{b.Bytes(), strconv.Itoa(m.puts), time.Now()}
	return nil
}

func (m *Memory) find(key string) (stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return o, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return o, nil
}

// Get implements pikokms.Storage.
func (m *Memory) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	content, _, err := m.GetVersion(ctx, key)
	return content, err
}

// GetVersion implements pikokms.ConditionalStorage.
func (m *Memory) GetVersion(_ context.Context, key string) (io.ReadCloser, string, error) {
	o, err := m.find(key)
	if err != nil {
		return nil, "", err
	}
	return io.NopCloser(bytes.NewReader(o.content)), o.version, nil
}

// Open implements pikokms.RangeStorage.
func (m *Memory) Open(_ context.Context, key string) (pikokms.Object, error) {
	o, err := m.find(key)
	if err != nil {
		return nil, err
	}
	return opened{bytes.NewReader(o.content), o.time}, nil
}

type opened struct {
	*bytes.Reader
	time time.Time
}

func (o opened) ModTime() time.Time { return o.time }
func (o opened) Close() error       { return nil }

// Delete implements pikokms.Storage.
func (m *Memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	delete(m.objects, key)
	return nil
}

// List implements pikokms.Storage.
func (m *Memory) List(_ context.Context, prefix string) iter.Seq2[string, error] {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.objects))
	m.mu.Unlock()
	return func(yield func(string, error) bool) {
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) && !yield(key, nil) {
				return
			}
		}
	}
}
