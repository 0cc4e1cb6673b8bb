//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package folderstorage

import (
	"fmt"
	"io/fs"
	"os"
)

const openNonblocking = 0

const namesAreBytes = false

// tryLock returns errNoLocks, so only the goroutines of this process exclude each other.
func tryLock(*os.File) (bool, error) { return false, errNoLocks }

func unlock(*os.File) {}

func onOneDevice(fs.FileInfo, fs.FileInfo) bool { return true }

// versionOf describes a file as well as is possible without its inode number.
func versionOf(info fs.FileInfo) string {
	return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
}
