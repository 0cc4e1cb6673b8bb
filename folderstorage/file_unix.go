//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package folderstorage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// namesAreBytes reports whether a file's name may have any bytes except slash and zero.
const namesAreBytes = runtime.GOOS != "darwin"

// openNonblocking makes opening a named pipe return at once, rather than wait for its other end.
const openNonblocking = syscall.O_NONBLOCK

// tryLock locks a file and reports whether it could. Closing the file releases the lock. Where the
// file system has no locks, it returns errNoLocks.
func tryLock(file *os.File) (bool, error) {
	err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		return true, nil
	case lacksLocks(err):
		return false, errNoLocks
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, nil
	}
	return false, err
}

// unlock releases a lock.
func unlock(file *os.File) { _ = flock(file, syscall.LOCK_UN) } // closing the file does so, too

func flock(file *os.File, how int) error {
	for {
		if err := syscall.Flock(int(file.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

// lacksLocks reports whether err means that the file system has no such locks.
func lacksLocks(err error) bool {
	for _, e := range [...]error{syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.ENOLCK, syscall.EBADF, syscall.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func onOneDevice(a, b fs.FileInfo) bool {
	x, okX := a.Sys().(*syscall.Stat_t)
	y, okY := b.Sys().(*syscall.Stat_t)
	return !okX || !okY || x.Dev == y.Dev
}

// versionOf describes a file. While the file is open, no other file of the device has its inode
// number.
func versionOf(info fs.FileInfo) string {
	version := fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		version += fmt.Sprintf("-%d-%d", s.Dev, s.Ino)
	}
	return version
}
