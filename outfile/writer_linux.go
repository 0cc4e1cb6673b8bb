package outfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// begin starts to write a part of a file to its disk (sync_file_range(2)). It neither waits nor
// returns errors, since a sync follows that does both.
func begin(file *os.File, offset, n int64) {
	connection, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = connection.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}
