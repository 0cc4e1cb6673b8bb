//go:build (!unix && !windows) || solaris || illumos || aix

package kept

import (
	"io/fs"
	"os"
)

// ModTime does nothing: these systems have no way to set the time of an open file.
func ModTime(*os.File, fs.FileInfo) error { return nil }
