package outfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// begin starts to write a part of a file to its disk. It does not wait, and reports no failures:
// the sync does (sync_file_range(2)).
func begin(file *os.File, offset, n int64) {
	connection, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = connection.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
