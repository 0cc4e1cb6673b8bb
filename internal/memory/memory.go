// Package memory finds sources whose bytes are in memory already. Packages message and frame then
// seal and open them in place, without a copy.
package memory

import (
	"bytes"
	"errors"
	"io"
	"unsafe"
)

// Source is a reader that exposes its next bytes.
type Source interface {
	io.Reader

	// Ahead returns the next bytes if there are any in memory. They are valid until something is
	// written to the source.
	Ahead() []byte

	// Skip advances past the first n bytes of Ahead.
	Skip(n int)
}

// Of returns r as a Source if it is one, or is a [bytes.Reader] or a [bytes.Buffer]. Otherwise it
// returns nil.
func Of(r io.Reader) Source {
	switch r := r.(type) {
	case Source:
		return r
	case *bytes.Reader:
		return &reader{Reader: r}
	case *bytes.Buffer:
		return buffer{r}
	}
	return nil
}

// Overlap reports whether a and b share memory. If so, writing to one changes the other.
func Overlap(a, b []byte) bool {
	return len(a) > 0 && len(b) > 0 &&
		uintptr(unsafe.Pointer(&a[0])) <= uintptr(unsafe.Pointer(&b[len(b)-1])) &&
		uintptr(unsafe.Pointer(&b[0])) <= uintptr(unsafe.Pointer(&a[len(a)-1]))
}

// reader gets the bytes of a [bytes.Reader] from its WriteTo, the only method that exposes them.
type reader struct {
	*bytes.Reader
	ahead []byte
}

var errLooked = errors.New("memory: looked at")

// Write keeps the bytes that WriteTo passes to it. It reports that it took none, so that they can
// still be read.
func (r *reader) Write(p []byte) (int, error) {
	r.ahead = p
	return 0, errLooked
}

func (r *reader) Ahead() []byte {
	r.ahead = nil
	_, _ = r.WriteTo(r) // the error is Write's
	return r.ahead
}

func (r *reader) Skip(n int) {
	_, _ = r.Seek(int64(n), io.SeekCurrent) // it fails only for a position before the start
}

type buffer struct{ *bytes.Buffer }

func (b buffer) Ahead() []byte { return b.Bytes() }
func (b buffer) Skip(n int)    { b.Next(n) }
