package message

import (
	"cmp"
	"context"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/frame"
)

// DecryptReader is an io.Reader of a message's plaintext. It is for one goroutine.
type DecryptReader struct {
	source  messageSource
	header  *header.Header
	context map[string]string
	body    io.Reader // a *frame.OpenReader, or one of package pikov2
	closed  bool
}

// Header returns the message's verified header, or nil for a stream that Piko wrote before pikokms.
func (r *DecryptReader) Header() *header.Header { return r.header }

// EncryptionContext returns the message's verified encryption context, including required pairs
// that it does not store. The caller must not change it.
func (r *DecryptReader) EncryptionContext() map[string]string { return r.context }

// Read reads plaintext. After Close, the error holds provider.ErrClosed.
func (r *DecryptReader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errClosed
	}
	n, err := r.body.Read(p)
	return n, classify(err)
}

// WriteTo writes the rest of the plaintext to w. It makes no copy. The error is Read's or w's.
func (r *DecryptReader) WriteTo(w io.Writer) (n int64, err error) {
	defer func() { abandon(w, err) }()
	if r.closed {
		return 0, errClosed
	}
	n, err = io.Copy(w, r.body)
	return n, classify(err)
}

// Close ends the stream and returns nil. It does not close the source. A reader that is dropped
// without Close leaves nothing behind.
func (r *DecryptReader) Close() error {
	r.closed = true
	return nil
}

// decryptWriter decrypts the message that is written to it. It is for one goroutine.
type decryptWriter struct {
	decrypter *Decrypter
	ctx       context.Context
	dst       destination
	stated    map[string]string

	scanner header.Scanner
	start   []byte            // the header so far
	body    *frame.OpenWriter // once the header is verified

	err    error // the first failure; errClosed after a successful Close
	closed bool
	result error // what the first Close returned
}

// fail keeps the stream's first failure and returns err.
func (w *decryptWriter) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return err
}

// Write decrypts p. After an error all further calls fail, Close among them.
func (w *decryptWriter) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for w.body == nil && n < len(p) {
		missing, err := w.missing()
		if err != nil {
			return n, w.fail(err)
		}
		m := min(missing, len(p)-n)
		n += m
		if err := w.take(p[n-m : n]); err != nil {
			return n, w.fail(err)
		}
	}
	if n == len(p) {
		return n, nil
	}
	m, err := w.body.Write(p[n:])
	return n + m, w.fail(aborted(classify(err)))
}

// missing returns how many more bytes of the header are needed to go on.
func (w *decryptWriter) missing() (int, error) {
	need, _, err := w.scanner.Scan(w.start)
	return need - len(w.start), classify(err)
}

// take adds bytes to the header, at most as many as missing returned. Once the header is complete,
// it opens the body.
func (w *decryptWriter) take(p []byte) error {
	w.start = append(w.start, p...)
	_, done, err := w.scanner.Scan(w.start)
	if err != nil || !done {
		return classify(err)
	}
	h, _, err := header.Parse(w.start, w.decrypter.Limits)
	if err != nil {
		return classify(err)
	}
	c, _, err := w.decrypter.start(w.ctx, h, w.stated)
	if err != nil {
		return err
	}
	w.start = nil
	w.body = frame.NewOpenWriter(&w.dst, c)
	return nil
}

// ReadFrom decrypts what src returns, without a copy. If src fails, Close fails.
func (w *decryptWriter) ReadFrom(src io.Reader) (total int64, err error) {
	if w.err != nil {
		return 0, w.err
	}
	source := &checked.Reader{Context: w.ctx, Source: src}
	for w.body == nil {
		missing, err := w.missing()
		if err != nil {
			return total, w.fail(err)
		}
		piece := make([]byte, missing)
		n, readErr := source.ReadFull(piece)
		total += int64(n)
		if err := w.take(piece[:n]); err != nil {
			return total, w.fail(err)
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, w.fail(readErr)
		}
	}
	n, err := w.body.ReadFrom(source)
	return total + n, w.fail(aborted(classify(err)))
}

// Close writes the last plaintext and reports whether the message was complete. If an earlier call
// has failed, or the context has ended, it returns that error. It does not close the destination. A
// second Close returns what the first one returned.
func (w *decryptWriter) Close() error {
	if w.closed {
		return w.result
	}
	w.closed, w.result = true, errAborted // stays if the destination panics
	w.result = w.finish()
	w.err = cmp.Or(w.result, errClosed)
	return w.result
}

func (w *decryptWriter) finish() error {
	if err := cmp.Or(w.err, w.ctx.Err()); err != nil {
		return err
	}
	if w.body != nil {
		return aborted(classify(w.body.Close()))
	}
	_, _, err := header.Parse(w.start, w.decrypter.Limits)
	switch err {
	case nil:
		return errAborted // a keyring has panicked
	case io.EOF:
		return errEmpty
	}
	return classify(err)
}
