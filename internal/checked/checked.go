// Package checked reads from sources and writes to destinations without trusting what they report.
// It is the only place of the module that does either in a loop. So all streams treat a reader or
// writer that breaks its contract in the same way.
//
// Its rules are stricter than those of [io.Reader] and [io.Writer]. A source that has failed or
// ended is not read again. For example, the body of an HTTP request fails once when its client
// hangs up, and then returns io.EOF as if it were complete. A source that returns neither bytes nor
// an error a hundred times in a row fails with [io.ErrNoProgress]. An impossible count is an error,
// and so is a short write.
package checked

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// maxEmptyReads is how often in a row a source may return neither a byte nor an error. Package
// bufio has the same bound.
const maxEmptyReads = 100

// errPanicked is the error of a Reader whose source has panicked. The bytes of that read are lost,
// so reading on would leave a gap.
var errPanicked = errors.New("the source has panicked")

// Reader reads from a source until the source first fails or ends. It is for one goroutine.
type Reader struct {
	Context context.Context // when it ends, reading fails; may be nil
	Source  io.Reader

	err error // the source's first error
}

// Err returns the error that the source failed with, io.EOF if it has ended, and otherwise nil.
func (r *Reader) Err() error { return r.err }

// Read implements [io.Reader]. Unless p is empty, it returns either bytes or an error, never both
// and never neither. An error that comes with bytes is returned by the next call.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for range maxEmptyReads {
		if r.err == nil && r.Context != nil {
			r.err = r.Context.Err()
		}
		if r.err != nil {
			return 0, r.err
		}
		r.err = errPanicked
		n, err := r.Source.Read(p)
		if n < 0 || n > len(p) {
			r.err = fmt.Errorf("the source says it read %d bytes into %d: a fault of %T", n, len(p), r.Source)
			return 0, r.err
		}
		r.err = err
		if n > 0 {
			return n, nil
		}
	}
	if r.err == nil {
		r.err = io.ErrNoProgress
	}
	return 0, r.err
}

// ReadAtLeast reads to p until it has atLeast bytes, or more if one read of the source returns
// more. It returns fewer only with an error. Unlike [io.ReadAtLeast], it returns io.EOF at the
// source's end even after some bytes. So an io.ErrUnexpectedEOF is always the source's own, the
// sign of a broken connection.
func (r *Reader) ReadAtLeast(p []byte, atLeast int) (n int, err error) {
	for n < atLeast {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
		if len(p) == n && n < atLeast {
			return n, io.ErrShortBuffer
		}
	}
	return n, nil
}

// ReadFull fills p. It returns fewer bytes only with an error, as [Reader.ReadAtLeast] does.
func (r *Reader) ReadFull(p []byte) (n int, err error) { return r.ReadAtLeast(p, len(p)) }

// ReadAt fills p from off, and returns no error if it could. It returns fewer bytes only with an
// error, which is io.EOF if src ends before.
func ReadAt(src io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := src.ReadAt(p, off)
	switch {
	case n < 0 || n > len(p):
		return 0, fmt.Errorf("the source says it read %d bytes into %d: a fault of %T", n, len(p), src)
	case n == len(p):
		return n, nil
	case err == nil:
		return n, fmt.Errorf("the source read %d bytes of %d without an error: a fault of %T", n, len(p), src)
	}
	return n, err
}

// Write writes p to w and returns how many bytes w took. It returns fewer than all only with an
// error. It wraps an io.EOF of w, since a caller that copies from a source would take a bare one
// for the source's end.
func Write(w io.Writer, p []byte) (int, error) {
	n, err := w.Write(p)
	switch {
	case n < 0 || n > len(p):
		return 0, fmt.Errorf("the destination says it wrote %d bytes of %d: a fault of %T", n, len(p), w)
	case err == io.EOF:
		return n, fmt.Errorf("the destination takes no more: %w", err)
	case err == nil && n < len(p):
		return n, io.ErrShortWrite
	}
	return n, err
}

// Copy copies from src to dst until src ends, and returns how many bytes dst took. If dst
// implements [io.ReaderFrom], it reads from src itself. Copy ignores that src may implement
// [io.WriterTo].
func Copy(dst io.Writer, src *Reader) (written int64, err error) {
	if r, ok := dst.(io.ReaderFrom); ok {
		written, err = r.ReadFrom(onlyReader{src})
		if err == io.EOF {
			err = fmt.Errorf("the destination takes no more: %w", err)
		}
		return written, err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err = Write(dst, buf[:n])
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// onlyReader hides the other methods of a reader.
type onlyReader struct{ io.Reader }
