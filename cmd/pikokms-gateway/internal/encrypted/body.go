package encrypted

import (
	"context"
	"errors"
	"io"
	"sync"

	"piko.sh/pikokms/header"
)

// answerBody is the body of an answer. If reading it fails, the gateway can only break off the
// connection, so the failure is logged here.
type answerBody struct {
	io.ReadCloser
	b           *Backend
	bucket, key string
	cancel      context.CancelFunc
}

func (a *answerBody) failed(err error) {
	a.b.config.Logger.Error("get: the answer was broken off", "bucket", a.bucket, "key", a.key, "error", err)
}

func (a *answerBody) Close() error {
	defer a.cancel()
	return a.ReadCloser.Close()
}

// WriteTo writes the content without a copy, if its source can.
func (a *answerBody) WriteTo(w io.Writer) (n int64, err error) {
	to := &clientWriter{Writer: w}
	err = a.b.catchPanic("get", func() (err error) {
		n, err = io.Copy(to, a.ReadCloser)
		return err
	})
	if err != nil && to.err == nil { // a client that hangs up is no failure
		a.failed(err)
	}
	return n, err
}

// clientWriter is a writer to a client. It keeps the error of a client that no longer reads.
type clientWriter struct {
	io.Writer
	err error
}

func (c *clientWriter) Write(p []byte) (n int, err error) {
	n, c.err = c.Writer.Write(p)
	return n, c.err
}

func (a *answerBody) Read(p []byte) (n int, err error) {
	err = a.b.catchPanic("get", func() (err error) {
		n, err = a.ReadCloser.Read(p)
		return err
	})
	if err != nil && err != io.EOF {
		a.failed(err)
	}
	return n, err
}

// section is a part of an object.
type section struct {
	*io.SectionReader
	object io.Closer
}

func (s *section) Close() error { return s.object.Close() }

// sectionBuffers are the buffers into which sections are read. Each holds several frames, since
// whole frames are opened in place.
var sectionBuffers = sync.Pool{New: func() any { return new([4 * header.DefaultFrameLength]byte) }}

func (s *section) WriteTo(w io.Writer) (int64, error) {
	buffer := sectionBuffers.Get().(*[4 * header.DefaultFrameLength]byte)
	defer sectionBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{s.SectionReader}, buffer[:])
}

// verified reads content of a known size. It releases the last byte only once the content has ended
// there, so that content that was cut short never looks whole.
type verified struct {
	content io.Reader
	stored  io.Closer
	left    int64
}

func (v *verified) Read(p []byte) (int, error) {
	if v.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := v.content.Read(p[:min(int64(len(p)), v.left)])
	if int64(n) < v.left {
		v.left -= int64(n)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	if err == nil {
		if _, err = io.ReadFull(v.content, make([]byte, 1)); err == nil {
			err = errTooLong
		}
	}
	if err != io.EOF {
		return 0, err
	}
	v.left = 0
	return n, io.EOF
}

// WriteTo writes the rest of the content, without a copy if the content can do so.
func (v *verified) WriteTo(w io.Writer) (int64, error) {
	content, ok := v.content.(io.WriterTo)
	if !ok {
		return io.Copy(w, struct{ io.Reader }{v})
	}
	buffer := heldBuffers.Get().(*[heldBytes]byte)
	to := &holding{to: w, left: v.left, last: buffer[:0]}
	defer func() {
		clear(to.last)
		heldBuffers.Put(buffer)
	}()
	_, err := content.WriteTo(to)
	if err == nil && to.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && len(to.last) > 0 {
		_, err = to.write(to.last)
	}
	v.left = 0
	return to.written, err
}

// heldBytes is how many bytes at the end of content are held back. One would do, but then the end
// would take a second write to the connection, which takes longer than copying a whole frame.
const heldBytes = header.DefaultFrameLength

var heldBuffers = sync.Pool{New: func() any { return new([heldBytes]byte) }}

// holding is a writer that holds back the end of content.
type holding struct {
	to            io.Writer
	left, written int64
	last          []byte // its capacity is heldBytes
}

func (h *holding) write(p []byte) (int, error) {
	n, err := h.to.Write(p)
	h.written += int64(n)
	return n, err
}

func (h *holding) Write(p []byte) (int, error) {
	if int64(len(p)) > h.left {
		return 0, errTooLong
	}
	if len(p) == 0 || int64(len(p)) < h.left {
		n, err := h.write(p)
		h.left -= int64(n)
		return n, err
	}
	end := max(0, len(p)-heldBytes)
	if end > 0 {
		if n, err := h.write(p[:end]); err != nil {
			h.left -= int64(n)
			return n, err
		}
	}
	h.last = append(h.last, p[end:]...)
	h.left = 0
	return len(p), nil
}

var errTooLong = errors.New("the object is longer than it was said to be")

func (v *verified) Close() error { return v.stored.Close() }
