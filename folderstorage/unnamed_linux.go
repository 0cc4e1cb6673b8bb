package folderstorage

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// create makes a file in dir that has no name, so that nothing is left of it if the process is
// killed. The file gets a temporary name if the file system does not support files without a name,
// or if there is no /proc, through which link names them. Only its owner can read it.
func (f *Storage) create(dir string) (*unplaced, error) {
	file, err := f.root.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, 0o600)
	if err != nil {
		return f.createNamed(dir)
	}
	if _, err := os.Stat(procPath(file)); err != nil {
		_ = file.Close() // nothing was written to it
		return f.createNamed(dir)
	}
	_, _ = tryLock(file) // keeps sweep from removing the file while it has a temporary name
	return &unplaced{f, file, ""}, nil
}

// procPath returns the path under which the system has an open file.
func procPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

// name gives a file its name. It replaces a file of that name only if replace is true.
func (u *unplaced) name(name string, replace bool) error {
	if u.temporary != "" {
		return u.rename(name, replace)
	}
	if !replace {
		return u.link(name)
	}
	temporary := filepath.Join(filepath.Dir(name), temporaryPrefix+rand.Text())
	if err := u.link(temporary); err != nil {
		return err
	}
	u.temporary = temporary
	return u.rename(name, true)
}

// link gives a name to a file that has none. It fails if the name is taken.
func (u *unplaced) link(name string) error {
	dir, err := u.folder.root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close() // its error does not matter: nothing was written
	err = unix.Linkat(unix.AT_FDCWD, procPath(u.file), int(dir.Fd()), filepath.Base(name), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		err = &os.LinkError{Op: "link", Old: "a file without a name", New: name, Err: err}
	}
	return err
}
