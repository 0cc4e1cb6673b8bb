package files

import (
	"os"
	"path/filepath"
	"strconv"
)

// OwnStream returns the stream of this process that a path names, or nil. Such a path is
// /dev/stdout, or one of /dev/fd or /proc/self/fd, or the name of the very file that standard
// output or standard error goes to. The stream may be a file, which is to be written on and not
// replaced: what started this process goes on writing to it.
func OwnStream(path string, info os.FileInfo) *os.File {
	for _, stream := range []*os.File{os.Stdout, os.Stderr} {
		if own, err := stream.Stat(); err == nil && os.SameFile(own, info) {
			return stream
		}
	}
	for range 40 { // symbolic links, as many as Linux follows
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return nil
		}
		name := filepath.Base(path)
		own, err := filepath.EvalSymlinks("/proc/self/fd")
		if dir == "/dev/fd" || err == nil && dir == own {
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 {
				return nil
			}
			return os.NewFile(uintptr(n), path)
		}
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			return nil
		}
		if path = target; !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
	}
	return nil
}
