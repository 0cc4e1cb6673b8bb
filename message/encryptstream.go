package message

import (
	"cmp"
	"context"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/signature"
)

// EncryptReader is an io.Reader of a message. It is for one goroutine.
type EncryptReader struct {
	source source
	header *header.Header
	out    []byte // rest of the header or of the footer, to be read next
	body   *frame.SealReader
	signer *signature.Signer // nil for an unsigned suite, and once the footer is made
}

// Header returns the message's header.
func (r *EncryptReader) Header() *header.Header { return r.header }

// ContentLength returns the exact size in bytes of the whole message, if it is known before the
// first Read. The source must have a method Len() int, as bytes.Reader does, or be an io.Seeker. If
// the source grows or shrinks later, the message has another size. The size of a signed message is
// never known.
func (r *EncryptReader) ContentLength() (n int64, known bool) {
	if len(r.out) != r.header.Size() { // Read was called
		return 0, false
	}
	plaintext, known := r.source.remaining()
	if !known {
		return 0, false
	}
	n, err := EncryptedSize(r.header, plaintext)
	return n, err == nil
}

// Read reads the message. The error is the source's, the context's once that has ended, or holds
// ErrTooLong.
func (r *EncryptReader) Read(p []byte) (int, error) {
	if len(r.out) == 0 {
		n, err := r.body.Read(p)
		if err != io.EOF || r.signer == nil {
			return n, err
		}
		if err := r.sign(); err != nil {
			return n, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// sign makes the footer at the end of the body.
func (r *EncryptReader) sign() (err error) {
	if r.out, err = r.signer.Footer(); err == nil {
		r.signer = nil
	}
	return err
}

// WriteTo writes the rest of the message to w. It makes no copy. The error is Read's or w's.
func (r *EncryptReader) WriteTo(w io.Writer) (written int64, err error) {
	defer func() { abandon(w, err) }()
	written, err = r.flush(w)
	if err != nil {
		return written, err
	}
	n, err := r.body.WriteTo(w)
	written += n
	if err != nil || r.signer == nil {
		return written, err
	}
	if err := r.sign(); err != nil {
		return written, err
	}
	n, err = r.flush(w)
	return written + n, err
}

func (r *EncryptReader) flush(w io.Writer) (int64, error) {
	if len(r.out) == 0 {
		return 0, nil
	}
	n, err := checked.Write(w, r.out)
	r.out = r.out[n:]
	return int64(n), err
}

// EncryptWriter encrypts the plaintext that is written to it. It is for one goroutine.
//
// The message is complete only when [EncryptWriter.Close] returns nil; every reader refuses one
// that is not. Close completes it unless the writer knows of a failure: of a Write, of a ReadFrom,
// or of the context. An [io.Copy] calls ReadFrom if its source is no io.WriterTo, as connections,
// files and request bodies are not. The writer can't know of other failures. So defer
// [EncryptWriter.Abort], which does nothing after Close, and call Close when everything is written:
//
//	w, err := e.NewWriter(ctx, dst, nil)
//	if err != nil {
//		return err
//	}
//	defer w.Abort()
//	if err := render(w); err != nil {
//		return err
//	}
//	return w.Close()
type EncryptWriter struct {
	ctx    context.Context
	dst    destination
	body   *frame.SealWriter
	header *header.Header
	signer *signature.Signer // nil for an unsigned suite

	err    error // the first failure; errClosed after a successful Close
	closed bool
	result error // what the first Close returned
}

// Header returns the message's header.
func (w *EncryptWriter) Header() *header.Header { return w.header }

// fail keeps the stream's first failure and returns err.
func (w *EncryptWriter) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return err
}

// Write encrypts p. After an error all further calls fail, Close among them.
func (w *EncryptWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.body.Write(p)
	return n, w.fail(aborted(err))
}

// ReadFrom encrypts what src returns, without a copy. If src fails, Close fails.
func (w *EncryptWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.body.ReadFrom(&checked.Reader{Context: w.ctx, Source: src})
	return n, w.fail(aborted(err))
}

// Close seals the last frame and, in a signed message, writes the signature. If an earlier call has
// failed, or the context has ended, it leaves the message incomplete and returns that error. A
// second Close returns what the first one returned.
func (w *EncryptWriter) Close() error {
	if w.closed {
		return w.result
	}
	w.closed, w.result = true, errAborted // stays if the destination panics
	w.result = w.finish()
	w.err = cmp.Or(w.result, errClosed)
	return w.result
}

func (w *EncryptWriter) finish() error {
	if err := cmp.Or(w.err, w.ctx.Err()); err != nil {
		w.body.Abort()
		return err
	}
	if err := w.body.Close(); err != nil {
		return aborted(err)
	}
	if w.signer == nil {
		return nil
	}
	footer, err := w.signer.Footer()
	if err != nil {
		return err
	}
	_, err = w.dst.Write(footer)
	return err
}

// Abort ends the stream and leaves the message incomplete, so a later Close fails. After a Close it
// does nothing. The caller removes what was written to the destination.
func (w *EncryptWriter) Abort() {
	if !w.closed {
		_ = w.fail(errAborted)
		w.body.Abort()
	}
}
