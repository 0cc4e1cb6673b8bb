//go:build unix && !linux && !solaris && !illumos && !aix

package outfile

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// KeepModTime gives file the modification time of old, in microseconds. Nothing may be written to it
// afterwards.
func KeepModTime(file *os.File, old fs.FileInfo) error {
	times := []unix.Timeval{unix.NsecToTimeval(time.Now().UnixNano()), unix.NsecToTimeval(old.ModTime().UnixNano())}
	if err := unix.Futimes(int(file.Fd()), times); err != nil {
		return fmt.Errorf("keeping its time: %w", err)
	}
	return nil
}
