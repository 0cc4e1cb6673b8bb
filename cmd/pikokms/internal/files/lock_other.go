//go:build !unix || solaris || illumos || aix

package files

import (
	"os"
)

// lock does nothing: the systems of this file, such as Windows, don't remove open files.
func lock(*os.File) {}

// isLocked returns false. The removal of a file that is being written fails by itself.
func isLocked(string) bool { return false }
