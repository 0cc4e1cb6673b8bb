package pikokms

import (
	"io"
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
