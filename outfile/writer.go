// Package outfile writes files that replace others. It starts early to write them to the disk, and
// gives them the owner, the permissions and the time of the files that they replace.
package outfile

import (
	"io"
	"os"
)

// chunk is how many bytes are written before the system is asked to write them to the disk. Shorter
// files are left to the sync.
const chunk = 8 << 20

// NewWriter returns a writer that appends to an empty file. On Linux, the system writes to the disk
// while the caller still makes the rest of the file, so that a sync at the end finds little left to
// do. The writer is for one goroutine.
func NewWriter(file *os.File) io.Writer { return &writer{file: file} }

type writer struct {
	file           *os.File
	begun, written int64 // up to which offsets writing to the disk has begun, and the file is written
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if w.written-w.begun >= chunk {
		begin(w.file, w.begun, w.written-w.begun)
		w.begun = w.written
	}
	return n, err
}
