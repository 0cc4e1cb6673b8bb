// Package outfile writes files that take the place of others: early to their disk, and with the
// owner, the permissions and the time of what they replace.
package outfile

import (
	"io"
	"os"
)

// chunk is how many bytes are written before the system is asked to write them to the disk. Shorter
// files are left to the sync.
const chunk = 8 << 20

// NewWriter returns a writer that appends to an empty file. On Linux the system writes to the disk
// what the file has so far, so a sync at the end finds little left to do, and the disk does not
// wait for the processor before. The writer is for one goroutine.
func NewWriter(file *os.File) io.Writer { return &writer{file: file} }

type writer struct {
	file           *os.File
	begun, written int64 // offsets up to which the system was told to write, and up to which we did
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
