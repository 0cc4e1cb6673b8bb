package frame

import (
	"cmp"
	"io"

	"piko.sh/pikokms/internal/checked"
)

// SealReader is the pull side of sealing: it reads plaintext from its source and returns the bytes
// of the body. It is for one goroutine.
type SealReader struct{ pull pull }

// NewSealReader returns a SealReader of src. If src fails with anything but io.EOF, the body never
// gets a final frame.
func NewSealReader(src io.Reader, c Config) *SealReader {
	return &SealReader{newPull(src, c, false)}
}

// Read implements [io.Reader]. If p has room for the frame length and [FinalOverhead], it receives
// a whole frame without a copy.
func (r *SealReader) Read(p []byte) (int, error) { return r.pull.read(r, p) }

// WriteTo implements [io.WriterTo]: it writes the rest of the body frame by frame, without a copy.
// A failure of w does not end the stream: what w did not take can be read afterwards.
func (r *SealReader) WriteTo(w io.Writer) (int64, error) { return r.pull.writeTo(r, w) }

func (r *SealReader) room() int { return r.pull.frames.bufferSize() }

// next reads the content to its place in the frame and seals it there, or seals it from the
// source's memory.
func (r *SealReader) next(buf []byte) (sealed []byte, final bool, err error) {
	s := &r.pull
	if buf == nil {
		if s.buffer.bytes == nil {
			s.buffer.take(s.frames.bufferSize())
		}
		buf = s.buffer.bytes
	}
	length := s.frames.config.Length
	if ahead := s.src.ahead(); len(ahead) >= length {
		sealed, err := s.frames.sealRegular(buf, ahead[:length])
		s.src.skip(length)
		return sealed, false, err
	}
	s.buffer.soil(len(s.buffer.bytes))
	content := buf[regularStart : regularStart+length]
	n, err := s.src.readAtLeast(content, length)
	switch {
	case err == io.EOF:
		copy(buf[finalStart:], content[:n])
		sealed, err = s.frames.sealFinal(buf, buf[finalStart:finalStart+n])
		final = true
	case err == nil:
		sealed, err = s.frames.sealRegular(buf, content)
	}
	if err != nil {
		return nil, false, err
	}
	s.buffer.dirty = 0 // the plaintext was sealed in place
	return sealed, final, nil
}

// SealWriter is the push side of sealing. It seals the plaintext that is written to it, and writes
// the body to its destination. It is for one goroutine.
//
// The body is complete only when Close returns nil. After a Write or a ReadFrom has failed, Close
// returns that error and writes nothing more, and every reader refuses what was written. The
// SealWriter does not see every failure: io.Copy may call the WriteTo of a source, whose error only
// the caller gets. After such a failure, call [SealWriter.Abort]:
//
//	w := frame.NewSealWriter(dst, c)
//	defer w.Abort() // does nothing after Close
//	if _, err := io.Copy(w, src); err != nil {
//		return err
//	}
//	return w.Close()
type SealWriter struct{ push push }

// NewSealWriter returns a SealWriter to dst. Closing it does not close dst.
func NewSealWriter(dst io.Writer, c Config) *SealWriter {
	return &SealWriter{newPush(dst, c, false)}
}

// Write implements [io.Writer].
func (w *SealWriter) Write(p []byte) (int, error) { return w.push.write(w, p) }

// ReadFrom implements [io.ReaderFrom]: it reads plaintext from r without a copy. If r fails, all
// further calls fail, Close among them.
func (w *SealWriter) ReadFrom(r io.Reader) (int64, error) { return w.push.readFrom(w, r) }

// Close seals and writes the final frame, unless the stream has failed or was aborted. A second
// Close returns what the first one returned.
func (w *SealWriter) Close() error { return w.push.close(w) }

// Abort ends the stream without a final frame. Write and Close then return the stream's first
// error, or [ErrAborted] if it had none. After Close, Abort does nothing.
func (w *SealWriter) Abort() {
	if w.push.closed {
		return
	}
	w.push.err = cmp.Or(w.push.err, ErrAborted)
	_ = w.push.close(w) // the error is w.push.err
}

func (w *SealWriter) parallel() bool { return w.push.have == 0 }

// content returns the place of a regular frame's content in the buffer.
func (w *SealWriter) content() []byte {
	return w.push.buffer.bytes[regularStart : regularStart+w.push.frames.config.Length]
}

// step seals a frame from p if p has all of its content. Otherwise it gathers the content in the
// buffer, and seals it there once it is complete.
func (w *SealWriter) step(p []byte) (used int, err error) {
	s := &w.push
	if length := s.frames.config.Length; s.have == 0 && len(p) >= length {
		if err := w.flush(p[:length]); err != nil {
			return 0, err
		}
		return length, nil
	}
	content := w.content()
	used = copy(content[s.have:], p)
	s.have += used
	s.buffer.soil(regularStart + s.have)
	if s.have < len(content) {
		return used, nil
	}
	return used, w.flush(content)
}

func (w *SealWriter) fill(src *source) error {
	s, content := &w.push, w.content()
	s.buffer.soil(regularStart + len(content))
	n, err := src.readAtLeast(content[s.have:], len(content)-s.have)
	s.have += n
	if err != nil {
		return err
	}
	return w.flush(content)
}

// flush seals and writes a regular frame. The content may be in the buffer or elsewhere.
func (w *SealWriter) flush(content []byte) error {
	s := &w.push
	sealed, err := s.frames.sealRegular(s.buffer.bytes, content)
	if err != nil {
		return err
	}
	s.have, s.buffer.dirty = 0, 0
	_, err = checked.Write(s.dst, sealed)
	return err
}

func (w *SealWriter) finish() error {
	s := &w.push
	buf := s.buffer.bytes
	content := buf[finalStart : finalStart+s.have]
	copy(content, w.content())
	sealed, err := s.frames.sealFinal(buf, content)
	if err != nil {
		return err
	}
	s.have, s.buffer.dirty = 0, 0
	_, err = checked.Write(s.dst, sealed)
	return err
}
