//go:build linux

package pikokms_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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

// What the system does not let us read is named, and the rest is listed.
func TestListOfAFolderThatCannotBeRead(t *testing.T) {
	folder, dir := newFolder(t)
	for _, key := range []string{"a", "private/x", "public/deep/y", "public/secret/z", "z"} {
		require.NoError(t, folder.Put(t.Context(), key, strings.NewReader("")))
	}
	for _, unreadable := range []string{"private", "public/secret"} {
		require.NoError(t, os.Chmod(filepath.Join(dir, unreadable), 0))
		t.Cleanup(func() { require.NoError(t, os.Chmod(filepath.Join(dir, unreadable), 0o700)) })
	}
	asOwner(t, dir)
	list := func(prefix string, most int) (keys, failed []string) {
		for key, err := range folder.List(t.Context(), prefix) {
			if err != nil {
				require.ErrorIs(t, err, fs.ErrPermission)
				failed = append(failed, key)
			} else {
				keys = append(keys, key)
			}
			if most--; most == 0 {
				break
			}
		}
		return keys, failed
	}
	keys, failed := list("", -1)
	require.Equal(t, []string{"a", "public/deep/y", "z"}, keys)
	require.Equal(t, []string{"private/", "public/secret/"}, failed)
	keys, failed = list("public/", -1)
	require.Equal(t, []string{"public/deep/y"}, keys)
	require.Equal(t, []string{"public/secret/"}, failed)
	keys, failed = list("", 2)
	require.Equal(t, []string{"a"}, keys)
	require.Equal(t, []string{"private/"}, failed)
}

// asOwner gives what is in a folder to a user without root's rights, and has the rest of the test
// read files as that user.
func asOwner(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, -1))
	}))
	runtime.LockOSThread() // the thread ends with the test
	_, err := unix.SetfsuidRetUid(nobody)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := unix.SetfsuidRetUid(0)
		require.NoError(t, err)
		runtime.UnlockOSThread()
	})
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
