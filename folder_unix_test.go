//go:build linux

package pikokms_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
)

// A named pipe that nobody writes to would be waited for without end.
func TestGetOfANamedPipe(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	_, err := folder.Get(t.Context(), "pipe")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "no file")
	_, err = folder.Open(t.Context(), "pipe")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, folder.Put(t.Context(), "pipe", strings.NewReader("an object")))
	got, err := get(t, folder, "pipe")
	require.NoError(t, err)
	require.Equal(t, "an object", got)
}

func TestAPartOfTheFolderOnAnotherDevice(t *testing.T) {
	folder, dir := newFolder(t)
	mounted := filepath.Join(dir, "mounted")
	require.NoError(t, os.Mkdir(mounted, 0o700))
	if err := syscall.Mount("tmpfs", mounted, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting takes more rights: %v", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(mounted, 0)) }()
	for _, key := range []string{"mounted/a", "mounted/new/folder/b"} {
		require.NoError(t, folder.Put(t.Context(), key, strings.NewReader(key)))
		got, err := get(t, folder, key)
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
	require.Error(t, folder.Put(t.Context(), "mounted/large", strings.NewReader(strings.Repeat("x", 2<<20))), "the device is full")
	require.Equal(t, []string{"mounted/a", "mounted/new/folder/b"}, keys(t, folder, ""))
	require.NoError(t, folder.Delete(t.Context(), "mounted/new/folder/b"))
	require.NoError(t, folder.Delete(t.Context(), "mounted/a"))
	require.Equal(t, []string{"mounted"}, filesIn(t, dir), "what is mounted stays")
	require.True(t, errors.Is(folder.Delete(t.Context(), "mounted"), fs.ErrNotExist))
	require.ErrorIs(t, folder.Put(t.Context(), "mounted", strings.NewReader("")), pikokms.ErrInvalidKey)
}

// Another process that was stopped holds the folder's lock.
func TestAPutThatWaitsForAnotherProcessEndsWithItsContext(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "a", strings.NewReader("old")))
	other, err := os.Open(dir)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(other.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, folder.Put(ctx, "a", strings.NewReader("new")), context.DeadlineExceeded)
	require.ErrorIs(t, folder.Delete(ctx, "a"), context.DeadlineExceeded)
	got, err := get(t, folder, "a")
	require.NoError(t, err)
	require.Equal(t, "old", got)
	time.AfterFunc(20*time.Millisecond, func() { _ = other.Close() })
	require.NoError(t, folder.Delete(t.Context(), "a"))
	require.Empty(t, filesIn(t, dir))
}
