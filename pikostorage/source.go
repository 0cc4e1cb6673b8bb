package pikostorage

import (
	"io"
	"sync/atomic"
)

// rewindable returns an upload's reader, and what turns the upload's failure into one that Piko
// treats rightly. Piko tries an upload again with the reader as it stands: what had been read of it
// would be missing, without an error.
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

// watched is a reader that knows whether it has been read.
type watched struct {
	io.Reader
	read atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.read.Store(true)
	return w.Reader.Read(p)
}

// spentError is the failure of an upload that can't be tried again. Piko's retries stop at an
// io.ErrUnexpectedEOF, whatever else the error is.
type spentError struct{ failure error }

func (e *spentError) Error() string   { return ErrSourceSpent.Error() + ": " + e.failure.Error() }
func (e *spentError) Unwrap() []error { return []error{ErrSourceSpent, e.failure, io.ErrUnexpectedEOF} }
