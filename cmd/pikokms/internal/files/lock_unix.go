//go:build unix && !solaris && !illumos && !aix

package files

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock marks a file as being written by this process, until it is closed.
func lock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// isLocked reports whether a process still writes a file.
func isLocked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// LockAlone locks a file until it is closed. It returns false if another process has it locked. On
// a file system without locks it returns true.
func LockAlone(f *os.File) bool {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK
}
