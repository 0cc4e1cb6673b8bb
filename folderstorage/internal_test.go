package folderstorage

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

type unsynced struct{ err error }

func (u unsynced) Sync() error { return &os.PathError{Op: "sync", Path: "x", Err: u.err} }

// Network file systems and those in user space say in several ways that they have no fsync.
func TestAFileSystemWithoutFsyncStoresAllTheSame(t *testing.T) {
	for _, err := range []error{syscall.EINVAL, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		require.NoError(t, syncFile(unsynced{err}))
	}
	for _, err := range []error{syscall.EIO, syscall.ENOSPC, io.ErrUnexpectedEOF} {
		require.ErrorIs(t, syncFile(unsynced{err}), err)
	}
}

// TestFullDiskNamesTheObject: the error of a write says nothing of the temporary file, and the
// error of a source keeps its path.
func TestFullDiskNamesTheObject(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/store/" + temporaryPrefix + "X", Err: syscall.ENOSPC}
	require.Equal(t, error(syscall.ENOSPC), withoutPath(full, full.Path))
	require.Equal(t, error(syscall.ENOSPC), withoutPath(errors.Join(full), full.Path))
	require.Equal(t, error(full), withoutPath(full, "/store/other"))
	require.NoError(t, withoutPath(nil, full.Path))
}
