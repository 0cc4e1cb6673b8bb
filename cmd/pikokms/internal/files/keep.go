package files

import (
	"os"

	"piko.sh/pikokms"
	"piko.sh/pikokms/outfile"
)

// Keep gives file the owner, group, mode and time of the one that it will replace, of which now is
// the current state. It fails with pikokms.ErrChanged if that is not as it was before, when it was
// read.
func Keep(file *os.File, now, before os.FileInfo) error {
	if now == nil || !isUnchanged(now, before) {
		return pikokms.ErrChanged
	}
	if err := outfile.KeepOwner(file, now); err != nil {
		return err
	}
	return outfile.KeepModTime(file, now)
}

// isUnchanged reports whether a file did not change between two looks at it.
func isUnchanged(now, before os.FileInfo) bool {
	return before != nil && os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
}
