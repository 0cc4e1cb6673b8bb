package files

import (
	"os"

	"piko.sh/pikokms"
	"piko.sh/pikokms/outfile"
)

// Keep gives a file that is to take the place of another its owner, group, mode and time. It
// refuses if that one, as it is now, is not as it was when it was read.
func Keep(file *os.File, now, before os.FileInfo) error {
	if now == nil || !isSame(now, before) {
		return pikokms.ErrChanged
	}
	if err := outfile.KeepOwner(file, now); err != nil {
		return err
	}
	return outfile.KeepModTime(file, now)
}

// isSame reports whether a file is as it was.
func isSame(now, before os.FileInfo) bool {
	return before != nil && os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
}
