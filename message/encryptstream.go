package message

import (
	"cmp"
	"context"
	"io"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/checked"
)

// EncryptReader reads as a message. It is for one goroutine.
type EncryptReader struct {
	source source
	header *header.Header
	out    []byte // of the header, or of the footer, still to be read
	body   *frame.SealReader
	signer *header.Signer // nil once the footer is made
}

// Header returns the message's header.
func (r *EncryptReader) Header() *header.Header { return r.header }

// EncryptedSize returns the exact size of the whole message if the source has n bytes, as the
// function does.
func (r *EncryptReader) EncryptedSize(n int64) (int64, error) { return EncryptedSize(r.header, n) }

// ContentLength returns the exact size in bytes of the whole message, if the source tells now how
// many bytes it has, before the first Read: by a method Len() int, as bytes.Reader has, or as an
// io.Seeker. Who passes it on must expect another size still, if the source grows or shrinks
// meanwhile. A signed message's size is not known.
func (r *EncryptReader) ContentLength() (n int64, known bool) {
	if len(r.out) != r.header.Size() { // reading has begun
		return 0, false
	}
	plaintext, known := r.source.remaining()
	if !known {
		return 0, false
	}
	n, err := r.EncryptedSize(plaintext)
	return n, err == nil
}

// Read implements io.Reader.
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

// sign makes the footer, behind the whole body.
func (r *EncryptReader) sign() (err error) {
	if r.out, err = r.signer.Footer(); err == nil {
		r.signer = nil
	}
	return err
}

// WriteTo implements io.WriterTo, without a copy.
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

// EncryptWriter encrypts what is written to it. It is for one goroutine.
//
// Until [EncryptWriter.Close] returns nil, what went to the destination is no whole message, and
// every reader refuses it. Close makes it whole unless the writer knows that something failed: a
// Write, a ReadFrom, whose source may have failed, or the context. An [io.Copy] from a source that
// is no io.WriterTo, as connections, files and request bodies, comes down to ReadFrom. Whatever
// else fails, the writer can't know. So defer [EncryptWriter.Abort], which does nothing after a
// Close, and call Close where all is written:
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
	signer *header.Signer // nil for a suite without a signature

	err    error // the first failure; errClosed after a Close
	closed bool
	result error // of the first Close
}

// Header returns the message's header.
func (w *EncryptWriter) Header() *header.Header { return w.header }

// fail notes the stream's first failure, and returns err.
func (w *EncryptWriter) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return err
}

// Write implements io.Writer. After an error, all further calls fail, Close among them.
func (w *EncryptWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.body.Write(p)
	return n, w.fail(aborted(err))
}

// ReadFrom implements io.ReaderFrom: it encrypts what src gives, without a copy. If src fails,
// Close fails.
func (w *EncryptWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.body.ReadFrom(&checked.Reader{Context: w.ctx, Source: src})
	return n, w.fail(aborted(err))
}

// Close seals the last frame and, in a signed message, writes the signature. If a call has failed
// before, or the context has ended, the message stays unfinished and Close returns that error. A
// second Close returns what the first one returned.
func (w *EncryptWriter) Close() error {
	if w.closed {
		return w.result
	}
	w.closed, w.result = true, errAborted // for a panic of the destination
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

// Abort ends the stream without making the message whole: a later Close fails. After a Close it
// does nothing. It does not touch the destination, of which the caller removes what was written.
func (w *EncryptWriter) Abort() {
	if !w.closed {
		_ = w.fail(errAborted)
		w.body.Abort()
	}
}
