//go:build linux

package folderstorage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	"piko.sh/pikokms/folderstorage"
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
	require.ErrorIs(t, folder.Put(t.Context(), "mounted", strings.NewReader("")), folderstorage.ErrInvalidObjectKey)
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

// A process that is killed while it puts leaves no part of an object under any name.
func TestAPutHasNoNameUntilItIsWhole(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("old")))
	for _, key := range []string{"a/b", "a/new"} {
		reading, write := io.Pipe()
		finished := make(chan error)
		go func() { finished <- folder.Put(t.Context(), key, reading) }()
		_, err := write.Write([]byte("secret"))
		require.NoError(t, err)
		require.NotContains(t, strings.Join(filesIn(t, dir), " "), ".pikokms-tmp-")
		require.NoError(t, write.Close())
		require.NoError(t, <-finished)
		got, err := get(t, folder, key)
		require.NoError(t, err)
		require.Equal(t, "secret", got)
	}
}

// What is rewrapped stays the file of whose it was.
func TestPutIfKeepsOwnerAndMode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	folder, dir := newFolder(t)
	path := filepath.Join(dir, "a")
	require.NoError(t, folder.Put(t.Context(), "a", strings.NewReader("old")))
	require.NoError(t, os.Chown(path, 65534, 1234))
	require.NoError(t, os.Chmod(path, 0o664))
	r, version, err := folder.GetVersion(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, folder.PutIf(t.Context(), "a", version, strings.NewReader("new")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o664), info.Mode().Perm())
	stat := info.Sys().(*syscall.Stat_t)
	require.Equal(t, []uint32{65534, 1234}, []uint32{stat.Uid, stat.Gid})
}

// Walk names what List passes over.
func TestWalk(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a", "empty"), 0o700))
	require.NoError(t, os.Symlink("b", filepath.Join(dir, "a", "link")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	locked, err := os.Create(filepath.Join(dir, ".pikokms-tmp-locked"))
	require.NoError(t, err)
	defer locked.Close()
	require.NoError(t, syscall.Flock(int(locked.Fd()), syscall.LOCK_EX))
	var got []string
	walk := func(prefix, last string, end error) error {
		got = nil
		return folder.Walk(t.Context(), prefix, func(key string, kind fs.FileMode, err error) error {
			require.NoError(t, err)
			if got = append(got, key+" "+kind.String()); key == last {
				return end
			}
			return nil
		})
	}
	require.NoError(t, walk("", "", nil))
	require.Equal(t, []string{".pikokms-tmp-locked T---------", "a/b ----------", "a/empty/ d---------", "a/link L---------", "pipe p---------"}, got)
	require.NoError(t, walk("a/", "a/empty/", fs.SkipAll))
	require.Equal(t, []string{"a/b ----------", "a/empty/ d---------"}, got)
	end := errors.New("end")
	require.Equal(t, end, walk("", "a/b", end))
	require.Len(t, got, 2)
	require.Equal(t, []string{"a/b"}, keys(t, folder, ""))
}

// PutFunc decides about what it replaces while no other Put can come between.
func TestPutFunc(t *testing.T) {
	folder, dir := newFolder(t)
	refused := errors.New("refused")
	put := func(content string) error {
		return folder.PutFunc(t.Context(), "a", strings.NewReader(content), func(old fs.FileInfo, file *os.File) error {
			if old != nil {
				return refused
			}
			return nil
		})
	}
	errs := make(chan error)
	for i := range 20 {
		go func() { errs <- put(fmt.Sprint(i)) }()
	}
	placed := 0
	for range 20 {
		if err := <-errs; err == nil {
			placed++
		} else {
			require.ErrorIs(t, err, refused)
		}
	}
	require.Equal(t, 1, placed)
	require.Equal(t, []string{"a"}, filesIn(t, dir))

	// Another program makes the file between the question and the link.
	err := folder.PutFunc(t.Context(), "b", strings.NewReader("ours"), func(old fs.FileInfo, _ *os.File) error {
		require.Nil(t, old)
		return os.WriteFile(filepath.Join(dir, "b"), []byte("theirs"), 0o600)
	})
	require.ErrorIs(t, err, fs.ErrExist)
	got, err := get(t, folder, "b")
	require.NoError(t, err)
	require.Equal(t, "theirs", got)
	require.ElementsMatch(t, []string{"a", "b"}, filesIn(t, dir))
}

// Where a file's name is bytes, it is a key whatever they are.
func TestNamesThatAreNotUTF8(t *testing.T) {
	folder, dir := newFolder(t)
	const key = "\xe4/caf\xe9"
	require.NoError(t, os.Mkdir(filepath.Join(dir, "\xe4"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, key), []byte("old"), 0o600))
	require.Equal(t, []string{key}, keys(t, folder, ""))
	r, version, err := folder.GetVersion(t.Context(), key)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, folder.PutIf(t.Context(), key, version, strings.NewReader("new")))
	got, err := get(t, folder, key)
	require.NoError(t, err)
	require.Equal(t, "new", got)
	require.NoError(t, folder.Delete(t.Context(), key))
	require.Empty(t, filesIn(t, dir))
}
