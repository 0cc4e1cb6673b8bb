// Package checked reads from sources and writes to destinations without trust in what they say of
// it. It is the only place of the module that does either in a loop, so that all streams treat a
// reader or writer that breaks its contract in the same way.
//
// Its rules are stricter than those of [io.Reader] and [io.Writer]. A source that has failed, or
// ended, is not asked again: the body of an HTTP request, for one, fails once when its client
// hangs up, and then returns io.EOF as if it were whole. A source that gives nothing a hundred
// times in a row fails with [io.ErrNoProgress]. A count that can't be true is an error, and so is
// a short write.
package checked

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// maxEmptyReads is how often in a row a source may give neither a byte nor an error. Package bufio
// has the same bound.
const maxEmptyReads = 100

// errPanicked is what a source leaves behind that panics. The bytes that it read then are lost, so
// whoever recovers must not go on with those behind them.
var errPanicked = errors.New("the source has panicked")

// Reader reads from a source until that fails or ends for the first time. It is for one goroutine.
type Reader struct {
	Context context.Context // ends the stream when it ends; nil if nothing does
	Source  io.Reader

	err error // the source's first
}

// Err returns what the source failed with, io.EOF if it has ended, and nil while it may go on.
func (r *Reader) Err() error { return r.err }

// Read implements [io.Reader]. For a p that is not empty, it returns either bytes or an error,
// never both and never neither: an error that comes with bytes is returned by the next call.
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

// ReadAtLeast reads to p until it has atLeast bytes, which may be more than that where one read of
// the source gives more. It returns fewer only with an error. Unlike [io.ReadAtLeast], it returns
// io.EOF at the source's end even after some bytes, so that an io.ErrUnexpectedEOF is always the
// source's own: the sign of a broken connection.
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

// ReadAt fills p from off. It returns fewer bytes only with an error, io.EOF if src ends before,
// and no error with all of them.
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

// Write writes p to w and returns how many bytes of it w took: fewer than all only with an error.
// An io.EOF of w comes back wrapped, since whoever copies from a source takes a bare one for its
// end.
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

// Copy writes what src gives to dst until src ends, and returns how many bytes dst took. A dst that
// implements [io.ReaderFrom] reads for itself. A src that implements [io.WriterTo] is read all the
// same.
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
