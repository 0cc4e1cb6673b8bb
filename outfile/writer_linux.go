package outfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// begin has the system begin to write a part of a file. It does not wait, and says nothing of
// failures, which the sync reports (sync_file_range(2)).
func begin(file *os.File, offset, n int64) {
	connection, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = connection.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
