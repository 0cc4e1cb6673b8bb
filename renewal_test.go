package pikokms_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/adversary"
)

func TestRewrapLosesNoPutAndUndoesNoDelete(t *testing.T) {
	dir := t.TempDir()
	folder := func(t *testing.T) pikokms.Storage {
		f, err := folderstorage.New(dir)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	memory := adversary.NewMemory()
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
	pikokms.ConditionalStorage
	do func()
}

func (b between) PutIf(ctx context.Context, key, version string, content io.Reader) error {
	read, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	b.do()
	return b.ConditionalStorage.PutIf(ctx, key, version, bytes.NewReader(read))
}

func TestRewrapAndMigrateSayWhatCameBetween(t *testing.T) {
	for name, do := range map[string]func(f fixture, m *adversary.Memory){
		"a put": func(f fixture, m *adversary.Memory) {
			require.NoError(t, f.Put(t.Context(), "a", strings.NewReader("new")))
		},
		"a delete": func(f fixture, m *adversary.Memory) { require.NoError(t, m.Delete(t.Context(), "a")) },
	} {
		memory := adversary.NewMemory()
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
