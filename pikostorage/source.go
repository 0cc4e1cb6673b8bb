package pikostorage

import (
	"io"
	"sync/atomic"
)

// rewindable returns an upload's reader, and a function that the caller must call with the error of
// a failed upload. Piko repeats a failed upload with the reader as it stands. Bytes that were read
// already would be missing, without an error. So the function rewinds the reader and returns the
// error, or returns one after which Piko does not repeat the upload.
func rewindable(r io.Reader) (content io.Reader, rewind func(error) error) {
	if s, ok := r.(io.Seeker); ok {
		if at, err := s.Seek(0, io.SeekCurrent); err == nil {
			return r, func(failure error) error {
				if _, err := s.Seek(at, io.SeekStart); err != nil {
					return &spentError{failure}
				}
				return failure
			}
		}
	}
	w := &watched{Reader: r}
	return w, func(failure error) error {
		if w.read.Load() {
			return &spentError{failure}
		}
		return failure
	}
}

// watched is a reader that remembers whether it was read.
type watched struct {
	io.Reader
	read atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.read.Store(true)
	return w.Reader.Read(p)
}

// spentError is the failure of an upload that can't be repeated. It holds io.ErrUnexpectedEOF,
// since Piko's retries stop there.
type spentError struct{ failure error }

func (e *spentError) Error() string   { return ErrSourceSpent.Error() + ": " + e.failure.Error() }
func (e *spentError) Unwrap() []error { return []error{ErrSourceSpent, e.failure, io.ErrUnexpectedEOF} }
