package encrypted

import (
	"io"
	"runtime/debug"

	"github.com/versity/versitygw/s3err"

	"piko.sh/pikokms/message"
)

// logPanic logs what recover returned, with the stack of the panic, and returns an internal error.
// It returns nil if there was no panic.
//
// The engine recovers from panics while it handles a request. In other goroutines, and while the
// content of an answer is sent, they would end the process.
func (b *Backend) logPanic(doing string, recovered any) error {
	if recovered == nil {
		return nil
	}
	b.config.Logger.Error(doing+": panic", "panic", recovered, "stack", string(debug.Stack()))
	return s3err.GetAPIError(s3err.ErrInternalError)
}

// catchPanic calls do, and returns an error if that panics.
func (b *Backend) catchPanic(doing string, do func() error) (err error) {
	defer func() {
		if failed := b.logPanic(doing, recover()); failed != nil {
			err = failed
		}
	}()
	return do()
}

// watched is a message whose reads may not panic: an HTTP client of the inner backend may read it
// in a goroutine of its own.
type watched struct {
	*message.EncryptReader
	b *Backend
}

func (w watched) Read(p []byte) (n int, err error) {
	err = w.b.catchPanic("encrypt", func() (err error) {
		n, err = w.EncryptReader.Read(p)
		return err
	})
	return n, err
}

func (w watched) WriteTo(to io.Writer) (n int64, err error) {
	err = w.b.catchPanic("encrypt", func() (err error) {
		n, err = w.EncryptReader.WriteTo(to)
		return err
	})
	return n, err
}
