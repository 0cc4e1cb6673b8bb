//go:build unix

package files

import (
	"os"
	"syscall"
)

// Identity returns a value that no other file has while this one exists.
func Identity(info os.FileInfo) any {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return [2]uint64{uint64(s.Dev), s.Ino}
	}
	return [2]int64{info.Size(), info.ModTime().UnixNano()}
}
