package frame

import (
	"io"

	"piko.sh/pikokms/internal/checked"
)

// OpenReader is the pull side of opening: it reads a body from its source and returns the
// plaintext. It returns io.EOF only when the final frame is verified, the source has ended right
// after it or after the footer, and the footer is verified. It is for one goroutine.
type OpenReader struct {
	pull   pull
	intake intake

	// held and final are set only in a message with a footer.
	held  []byte // plaintext of the regular frame that was opened last, within pull.held
	final []byte // plaintext of the final frame, within pull.buffer; nil until the footer is verified
}

// NewOpenReader returns an OpenReader of src, whose next byte must be the body's first.
func NewOpenReader(src io.Reader, c Config) *OpenReader {
	r := &OpenReader{pull: newPull(src, c, true)}
	r.pull.buffer.take(r.pull.frames.firstSize())
	return r
}

// Read implements [io.Reader]. If p has at least the frame length, it receives a frame's plaintext
// without a copy.
func (r *OpenReader) Read(p []byte) (int, error) { return r.pull.read(r, p) }

// WriteTo implements [io.WriterTo]: it writes the rest of the plaintext frame by frame, without a
// copy. A failure of w does not end the stream: what w did not take can be read afterwards.
func (r *OpenReader) WriteTo(w io.Writer) (int64, error) { return r.pull.writeTo(r, w) }

func (r *OpenReader) room() int { return r.pull.frames.config.Length }

// next implements puller.
func (r *OpenReader) next(dst []byte) (plaintext []byte, final bool, err error) {
	if r.pull.frames.config.Footer == nil {
		return r.open(dst)
	}
	plaintext, final, err = r.nextSigned()
	if dst != nil {
		plaintext = dst[:copy(dst, plaintext)]
	}
	return plaintext, final, err
}

// nextSigned opens one frame more than it returns. If the final frame is empty, the frame before it
// has the last content, which must not be released before the footer is verified.
func (r *OpenReader) nextSigned() (plaintext []byte, final bool, err error) {
	s := &r.pull
	for r.final == nil {
		opened, final, err := r.open(nil)
		if err != nil {
			clear(r.held)
			return nil, false, err
		}
		if final {
			r.final = opened
			break
		}
		plaintext, r.held = r.held, opened
		s.buffer, s.held = s.held, s.buffer
		s.buffer.fit(s.frames.firstSize())
		if plaintext != nil {
			return plaintext, false, nil
		}
	}
	if plaintext = r.held; len(plaintext) > 0 {
		r.held = nil
		return plaintext, len(r.final) == 0, nil
	}
	return r.final, true, nil
}

// open opens a frame to dst[:0], or to the stream's buffer if dst is nil.
func (r *OpenReader) open(dst []byte) (plaintext []byte, final bool, err error) {
	s := &r.pull
	ahead := s.src.ahead()
	if need, final, whole, err := s.frames.measure(ahead); err == nil && whole && !final && len(ahead) >= need {
		if dst == nil {
			s.buffer.fit(s.frames.config.Length)
			dst = s.buffer.bytes
			s.buffer.soil(s.frames.config.Length)
		}
		plaintext, err := s.frames.open(dst, ahead[:need], false)
		s.src.skip(need)
		return plaintext, false, err
	}
	frame, behind, final, err := r.intake.read(&s.src, &s.frames, &s.buffer)
	if err == io.EOF {
		err = s.frames.truncated()
	}
	if err != nil {
		return nil, false, err
	}
	if !final {
		plaintext, err = s.frames.open(dst, frame, false)
		return plaintext, false, err
	}
	footer, err := r.footer(behind)
	if err != nil {
		return nil, false, err
	}
	plaintext, err = s.frames.open(dst, frame, true)
	if err != nil {
		return nil, false, err
	}
	if verify := s.frames.config.Footer; verify != nil {
		if err := verify(footer); err != nil {
			clear(plaintext)
			return nil, false, err
		}
	}
	return plaintext, true, nil
}

// footer reads everything after the body, up to the source's end. start is the part of it that was
// read with the body. Without a Config.Footer there must be nothing.
func (r *OpenReader) footer(start []byte) ([]byte, error) {
	most := 0
	if r.pull.frames.config.Footer != nil {
		most = maxFooter
	}
	if len(start) > most {
		return nil, ErrTrailingData
	}
	footer := make([]byte, most+1)
	n := copy(footer, start)
	m, err := r.pull.src.readAtLeast(footer[n:], len(footer)-n)
	if err == nil {
		return nil, ErrTrailingData
	}
	if err != io.EOF {
		return nil, err
	}
	return footer[:n+m], nil
}

// intake gathers the bytes of the next frame, or of an unframed body, in a stream's buffer.
type intake struct{ have int }

// read reads the rest of the frame from src. It returns bytes that it read after the final frame as
// behind.
func (in *intake) read(src *source, frames *sequence, buf *buffer) (frame, behind []byte, final bool, err error) {
	for {
		need, final, whole, err := frames.measure(buf.bytes[:in.have])
		if err != nil {
			return nil, nil, false, err
		}
		if whole && in.have >= need {
			frame, behind = buf.bytes[:need], buf.bytes[need:in.have]
			in.have = 0
			return frame, behind, final, nil
		}
		if in.have == len(buf.bytes) {
			buf.grow(frames.bufferSize())
		}
		end := min(need, len(buf.bytes))
		atLeast := end - in.have
		if !frames.config.Unframed && !final {
			// One read may get the whole frame. If that is the final frame, which is shorter, the
			// read may also get bytes that follow it.
			end = min(frames.regularSize(), len(buf.bytes))
		}
		n, err := src.readAtLeast(buf.bytes[in.have:end], atLeast)
		in.have += n
		buf.soil(in.have)
		if err != nil {
			return nil, nil, false, err
		}
	}
}

// add takes bytes from p until the frame has need bytes. It returns how many it took.
func (in *intake) add(buf *buffer, p []byte, need int) (used int) {
	for len(buf.bytes) < min(need, in.have+len(p)) {
		buf.grow(need)
	}
	used = copy(buf.bytes[in.have:min(need, len(buf.bytes))], p)
	in.have += used
	buf.soil(in.have)
	return used
}

// OpenWriter is the push side of opening. It opens the body that is written to it, and writes the
// plaintext to its destination: each frame's once its tag is verified, the final frame's at Close.
// The plaintext is complete only when Close returns nil. It is for one goroutine.
type OpenWriter struct {
	push   push
	intake intake
	done   bool   // the final frame is opened
	held   []byte // in a message with a footer, the previous frame's plaintext, within push.held
	last   []byte // plaintext of the final frame, within the buffer
	footer []byte // what was written after the final frame
}

// NewOpenWriter returns an OpenWriter to dst. Closing it does not close dst.
func NewOpenWriter(dst io.Writer, c Config) *OpenWriter {
	return &OpenWriter{push: newPush(dst, c, true)}
}

// Write implements [io.Writer].
func (w *OpenWriter) Write(p []byte) (int, error) { return w.push.write(w, p) }

// ReadFrom implements [io.ReaderFrom]: it reads a body from r without a copy. The end of r need not
// be that of the body: Close returns an error if the body is not complete.
func (w *OpenWriter) ReadFrom(r io.Reader) (int64, error) { return w.push.readFrom(w, r) }

// Close releases the final frame's plaintext, unless the stream has failed. If the body is not
// complete, the error holds [ErrTruncated]. A second Close returns what the first one returned.
func (w *OpenWriter) Close() error { return w.push.close(w) }

func (w *OpenWriter) parallel() bool { return w.intake.have == 0 && !w.done }

func (w *OpenWriter) step(p []byte) (used int, err error) {
	if w.done {
		return w.behind(p)
	}
	s := &w.push
	held := s.buffer.bytes[:w.intake.have]
	if len(held) == 0 {
		held = p // a frame that is whole within p need not be gathered
	}
	need, final, whole, err := s.frames.measure(held)
	if err != nil {
		return 0, err
	}
	if w.intake.have == 0 && len(p) >= need {
		s.buffer.fit(need)
		s.buffer.soil(need)
		return need, w.release(s.buffer.bytes, p[:need], final)
	}
	used = w.intake.add(&s.buffer, p, need)
	if !whole || w.intake.have < need {
		return used, nil
	}
	w.intake.have = 0
	return used, w.release(nil, s.buffer.bytes[:need], final)
}

func (w *OpenWriter) fill(src *source) error {
	if w.done {
		var b [1]byte
		if _, err := src.readAtLeast(b[:], 1); err != nil {
			return err
		}
		_, err := w.behind(b[:])
		return err
	}
	s := &w.push
	frame, behind, final, err := w.intake.read(src, &s.frames, &s.buffer)
	if err != nil {
		return err
	}
	if err := w.release(nil, frame, final); err != nil || len(behind) == 0 {
		return err
	}
	_, err = w.behind(behind)
	return err
}

// release opens a frame to dst, or in place if dst is nil. It writes the plaintext, but keeps that
// of the final frame, and in a message with a footer that of the frame before it: if the final
// frame is empty, that one has the last content.
func (w *OpenWriter) release(dst, frame []byte, final bool) error {
	s := &w.push
	plaintext, err := s.frames.open(dst, frame, final)
	if err != nil {
		return err
	}
	if final {
		w.last, w.done = plaintext, true
		return nil
	}
	if s.frames.config.Footer != nil {
		w.held, plaintext = plaintext, w.held
		s.buffer, s.held = s.held, s.buffer
		s.buffer.fit(s.frames.firstSize())
	}
	return w.write(plaintext)
}

// write writes plaintext to the destination, if there is any.
func (w *OpenWriter) write(plaintext []byte) error {
	if len(plaintext) == 0 {
		return nil
	}
	_, err := checked.Write(w.push.dst, plaintext)
	return err
}

// behind takes bytes that follow the body.
func (w *OpenWriter) behind(p []byte) (used int, err error) {
	if w.push.frames.config.Footer == nil || len(w.footer)+len(p) > maxFooter {
		return 0, ErrTrailingData
	}
	w.footer = append(w.footer, p...)
	return len(p), nil
}

func (w *OpenWriter) finish() error {
	if !w.done {
		return w.push.frames.truncated()
	}
	if verify := w.push.frames.config.Footer; verify != nil {
		if err := verify(w.footer); err != nil {
			clear(w.held)
			clear(w.last)
			return err
		}
	}
	if err := w.write(w.held); err != nil {
		return err
	}
	return w.write(w.last)
}
