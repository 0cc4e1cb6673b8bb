//go:build !unix

package files

import (
	"os"
)

// Identity returns a value that other files do not have, as far as that is possible without the
// file's number.
func Identity(info os.FileInfo) any { return [2]int64{info.Size(), info.ModTime().UnixNano()} }
