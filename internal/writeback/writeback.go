// Package writeback has the system write a file to its disk while more of it is still being written.
// A sync at the end then finds little left to do, and the disk does not wait for the processor
// before.
package writeback

import "os"

// chunk is how many bytes are written before the system is told of them. Files that are shorter are
// left to the sync.
const chunk = 8 << 20

// Writer writes to a file from its beginning to its end. It is for one goroutine.
type Writer struct {
	file           *os.File
	begun, written int64 // offsets up to which the system was told to write, and up to which we did
}

// New returns a Writer to an empty file.
func New(file *os.File) *Writer { return &Writer{file: file} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if w.written-w.begun >= chunk {
		begin(w.file, w.begun, w.written-w.begun)
		w.begun = w.written
	}
	return n, err
}
