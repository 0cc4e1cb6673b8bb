package pikokms_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/adversary"
)

// inMemory is a ConditionalStorage whose versions are counted.
type inMemory struct {
	mu      sync.Mutex
	objects map[string]version
	counter int
}

type version struct {
	number  int
	content []byte
}

func newInMemory() *inMemory { return &inMemory{objects: make(map[string]version)} }

func (m *inMemory) Put(_ context.Context, key string, content io.Reader) error {
	return m.put(key, content, func() bool { return true })
}

func (m *inMemory) PutIf(_ context.Context, key, version string, content io.Reader) error {
	return m.put(key, content, func() bool {
		v, ok := m.objects[key]
		return ok && strconv.Itoa(v.number) == version
	})
}

func (m *inMemory) put(key string, content io.Reader, allowed func() bool) error {
	b, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !allowed() {
		return pikokms.ErrChanged
	}
	m.counter++
	m.objects[key] = version{m.counter, b}
	return nil
}

func (m *inMemory) GetVersion(_ context.Context, key string) (io.ReadCloser, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.objects[key]
	if !ok {
		return nil, "", fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(v.content)), strconv.Itoa(v.number), nil
}

func (m *inMemory) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	r, _, err := m.GetVersion(ctx, key)
	return r, err
}

func (m *inMemory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; !ok {
		return fs.ErrNotExist
	}
	delete(m.objects, key)
	return nil
}

func (m *inMemory) List(_ context.Context, prefix string) iter.Seq2[string, error] {
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

func TestRewrapLosesNoPutAndUndoesNoDelete(t *testing.T) {
	dir := t.TempDir()
	folder := func(t *testing.T) pikokms.Storage {
		f, err := folderstorage.New(dir)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	memory := newInMemory()
	for name, storage := range map[string]func(t *testing.T) pikokms.Storage{
		"folder": folder, // each host has one of its own, as two processes have
		"memory": func(*testing.T) pikokms.Storage { return memory },
	} {
		t.Run(name, func(t *testing.T) {
			application := newFixture(t, pikokms.WithStorage(storage(t)))
			rewrapper := newFixture(t, pikokms.WithStorage(storage(t)))
			adversary.RewrapBeside(t, application.Host, rewrapper.Host, 20, 50)
		})
	}
}

// between does something when an object's content has been read.
type between struct {
	*inMemory
	do func()
}

func (b between) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	read, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	b.do()
	return b.inMemory.PutIf(ctx, key, version, bytes.NewReader(read))
}

func TestRewrapAndMigrateSayWhatCameBetween(t *testing.T) {
	for name, do := range map[string]func(f fixture, m *inMemory){
		"a put":    func(f fixture, m *inMemory) { require.NoError(t, f.Put(t.Context(), "a", strings.NewReader("new"))) },
		"a delete": func(f fixture, m *inMemory) { require.NoError(t, m.Delete(t.Context(), "a")) },
	} {
		memory := newInMemory()
		application := newFixture(t, pikokms.WithStorage(memory))
		rewrapper := newFixture(t, pikokms.WithStorage(between{memory, func() { do(application, memory) }}), pikokms.AllowPlaintext())
		require.NoError(t, application.Put(t.Context(), "a", strings.NewReader("old")))
		err := rewrapper.Rewrap(t.Context(), "a")
		require.ErrorIs(t, err, pikokms.ErrChanged, name)
		require.ErrorContains(t, err, "rewrap a: ")

		require.NoError(t, memory.Put(t.Context(), "a", strings.NewReader("plaintext")))
		require.ErrorIs(t, rewrapper.Migrate(t.Context(), "a"), pikokms.ErrChanged, name)
		got, err := get(t, application, "a")
		if name == "a delete" {
			require.ErrorIs(t, err, fs.ErrNotExist)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "new", got)
	}
}
