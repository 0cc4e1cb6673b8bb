package transfer

import (
	"context"
	"io"
)

// Upload is the content of an object that is uploaded. Give it to the service's client in place of
// Source: if Source fails, the upload is dropped, rather than stored as far as it went.
type Upload struct {
	Source io.Reader
	Drop   context.CancelFunc // ends the upload's context
	err    error
}

// Read reads from Source.
func (u *Upload) Read(p []byte) (int, error) {
	n, err := u.Source.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
		u.Drop()
	}
	return n, err
}

// Blame returns the content's failure if it has one, or else err, the upload's.
func (u *Upload) Blame(err error) error {
	if u.err != nil {
		return u.err
	}
	return err
}
