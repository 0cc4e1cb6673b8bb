package files

import (
	"os"

	"golang.org/x/sys/windows"
)

// LockAlone locks a file until it is closed. It returns false if another process has it locked. The
// lock is on a byte far behind the file's end, since others can't read what is locked.
func LockAlone(f *os.File) bool {
	const far = 1 << 30
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{OffsetHigh: far})
	return err != windows.ERROR_LOCK_VIOLATION && err != windows.ERROR_IO_PENDING
}
