package outfile

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// KeepModTime gives file the modification time of old. Nothing may be written to it afterwards.
func KeepModTime(file *os.File, old fs.FileInfo) error {
	t := windows.NsecToFiletime(old.ModTime().UnixNano())
	if err := windows.SetFileTime(windows.Handle(file.Fd()), nil, nil, &t); err != nil {
		return fmt.Errorf("keeping its time: %w", err)
	}
	return nil
}
