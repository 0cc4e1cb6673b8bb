package files

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createUnnamed makes a file in dir that has no name, so that nothing is left of it when the
// process is killed. On a file system without such files, it has a temporary name. Only its owner
// can read it.
func createUnnamed(dir string) (*os.File, error) {
	sweep(dir) // a process may have been killed while it named its file
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return CreateTemporary(dir)
	}
	if _, err := os.Stat(procPath(fd)); err != nil {
		// Without /proc the file could not get a name.
		_ = unix.Close(fd)
		return CreateTemporary(dir)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// procPath returns the path under which the system has an open file.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// nameUnnamed returns the temporary name of a file of createUnnamed, which it gets now if it has
// none.
func nameUnnamed(f *os.File) (string, error) {
	if !isUnnamed(f.Name()) {
		return f.Name(), nil
	}
	path := filepath.Join(f.Name(), TemporaryPrefix+rand.Text())
	err := unix.Linkat(unix.AT_FDCWD, procPath(int(f.Fd())), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	return path, err
}

// removeUnnamed removes a closed file of createUnnamed, by the name that it was opened with.
func removeUnnamed(name string) {
	if !isUnnamed(name) {
		_ = os.Remove(name)
	}
}

// isUnnamed reports whether a file has no name. It was then opened by the name of its folder.
func isUnnamed(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
