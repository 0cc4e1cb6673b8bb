package outfile

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// KeepModTime gives file the modification time of old. Nothing may be written to it afterwards.
func KeepModTime(file *os.File, old fs.FileInfo) error {
	t, err := unix.TimeToTimespec(old.ModTime())
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), times, 0); err != nil {
		return fmt.Errorf("keeping its time: %w", err)
	}
	return nil
}
