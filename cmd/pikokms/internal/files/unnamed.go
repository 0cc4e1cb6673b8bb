package files

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"time"
)

// TemporaryPrefix begins the names of files that are not whole yet, on systems that have no files
// without a name. It is that of a folderstorage.Storage, whose listing does not take them for
// objects.
const TemporaryPrefix = ".pikokms-tmp-"

// leftoverAge is the age from which a temporary file may be one that a killed process left.
const leftoverAge = time.Minute

// CreateTemporary makes a file with a temporary name in dir, and locks it so that no sweep removes
// it. Only its owner can read it.
func CreateTemporary(dir string) (*os.File, error) {
	sweep(dir)
	for {
		path := filepath.Join(dir, TemporaryPrefix+rand.Text())
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		lock(f)
		// A sweep that came before the lock has removed it.
		if _, err := os.Lstat(path); err == nil {
			return f, nil
		}
		_ = f.Close() // nothing was written to it
	}
}

// sweep removes the temporary files that killed processes left in dir.
func sweep(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, TemporaryPrefix+"*"))
	for _, path := range found {
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < leftoverAge {
			continue
		}
		if isLocked(path) {
			continue
		}
		_ = os.Remove(path)
	}
}
