// Package outfile writes files that take the place of others: early to their disk, and with the
// owner, the permissions and the time of what they replace.
package outfile

import "os"

// chunk is how many bytes are written before the system is asked to write them to the disk. Shorter
// files are left to the sync.
const chunk = 8 << 20

// Writer writes to a file from its beginning to its end. On Linux the system writes to the disk what
// it has so far, so a sync at the end finds little left to do, and the disk does not wait for the
// processor before. It is for one goroutine.
type Writer struct {
	file           *os.File
	begun, written int64 // offsets up to which the system was told to write, and up to which we did
}

// NewWriter returns a Writer to an empty file.
func NewWriter(file *os.File) *Writer { return &Writer{file: file} }

// Write appends p to the file.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if w.written-w.begun >= chunk {
		begin(w.file, w.begun, w.written-w.begun)
		w.begun = w.written
	}
	return n, err
}
