package frame

import (
	"cmp"
	"io"

	"piko.sh/pikokms/internal/memory"
)

// SealReader is the pull side of sealing: it reads plaintext from its source and gives the body's bytes.
type SealReader struct {
	sequence
	src    io.Reader
	memory memory.Source // src, if its bytes are in memory
	buf    []byte
	out    []byte // sealed bytes still to be read, a part of buf
	err    error  // sticky; io.EOF once the final frame is sealed
}

// NewSealReader returns a SealReader of src. A source that fails with anything but io.EOF never yields a final frame.
func NewSealReader(src io.Reader, c Config) *SealReader {
	return &SealReader{sequence: newSequence(c), src: src, memory: memory.Of(src)}
}

// next seals the next frame at the start of buf, which has bufferSize bytes: in place, or from memory.
func (r *SealReader) next(buf []byte) ([]byte, error) {
	if r.err != nil {
		r.drop()
		return nil, r.err
	}
	if ahead := bytesAhead(r.memory); len(ahead) >= r.Length {
		sealed, err := r.sealRegular(buf, ahead[:r.Length])
		r.memory.Skip(r.Length)
		r.err = err
		return sealed, err
	}
	content := buf[regularStart : regularStart+r.Length]
	n, err := read(r.src, content, len(content))
	if err == io.EOF {
		r.err = io.EOF
		copy(buf[finalStart:], content[:n])
		sealed, err := r.sealFinal(buf, buf[finalStart:finalStart+n])
		if err != nil {
			r.err = err
		}
		return sealed, err
	}
	if err != nil {
		r.err = err
		return nil, err
	}
	sealed, err := r.sealRegular(buf, content)
	r.err = err
	return sealed, err
}

// drop hands the buffer on, once all of it was read. After a failure there is plaintext in it.
func (r *SealReader) drop() {
	plaintext := len(r.buf)
	if r.err == io.EOF {
		plaintext = 0
	}
	dropBuffer(&r.buf, plaintext)
}

func (r *SealReader) own() []byte {
	if r.buf == nil {
		r.buf = takeBuffer(r.bufferSize())
	}
	return r.buf
}

// Read implements io.Reader. A p with room for a whole frame (the frame length and FinalOverhead) is sealed in place.
func (r *SealReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if memory.Overlap(p, bytesAhead(r.memory)) {
		r.memory = nil
	}
	if len(r.out) == 0 {
		if n := r.readParallel(p); n > 0 {
			return n, nil
		}
		if len(p) >= r.bufferSize() {
			sealed, err := r.next(p[:r.bufferSize()])
			return len(sealed), err
		}
		sealed, err := r.next(r.own())
		if err != nil {
			return 0, err
		}
		r.out = sealed
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: it writes the rest of the body frame by frame, without a copy.
func (r *SealReader) WriteTo(w io.Writer) (int64, error) {
	return writeAllFrames(w, &r.out,
		func() (int64, error) { return r.writeParallel(w) },
		func() ([]byte, error) { return r.next(r.own()) })
}

// readParallel seals frames in b, as many as it has room for and the source gives at once.
func (r *SealReader) readParallel(b []byte) (n int) {
	if r.isSmall(len(b)) || r.err != nil {
		return 0
	}
	p := r.parallelOf(false, r.src, r.memory, nil)
	if p == nil {
		return 0
	}
	defer p.close()
	p.into = b
	p.run()
	r.leave(p)
	return int(p.given)
}

func (r *SealReader) writeParallel(w io.Writer) (written int64, err error) {
	if r.err != nil {
		return 0, nil // next returns it
	}
	p := r.parallelOf(false, r.src, r.memory, nil)
	if p == nil {
		return 0, nil
	}
	defer p.close()
	p.dst = w
	p.run()
	r.leave(p)
	r.out = p.rest
	return p.given, p.err
}

// leave leaves the source to next once there are no more whole frames in it.
func (r *SealReader) leave(p *pipeline) {
	r.err = p.bad
	if p.ended {
		r.src, r.memory = &pushedBack{p.tail, p.srcErr, r.src}, nil
		r.parallelFrom = never
	}
}

// SealWriter is the push side of sealing: plaintext written to it goes to its destination as the body's bytes.
// Only Close ends the body: one that failed half-way must not be closed, and what it wrote is refused by every reader.
type SealWriter struct {
	sequence
	dst  io.Writer
	buf  []byte // a frame under construction
	have int    // bytes of its content

	err    error // sticky; ErrClosed may also be the destination's
	closed bool
}

// NewSealWriter returns a SealWriter to dst. Closing it does not close dst.
func NewSealWriter(dst io.Writer, c Config) *SealWriter {
	w := &SealWriter{sequence: newSequence(c), dst: dst}
	w.buf = takeBuffer(w.bufferSize())
	return w
}

// flush seals a full frame and writes it. Its content is in place, or elsewhere and then copied only by the sealing.
func (w *SealWriter) flush(content []byte) error {
	sealed, err := w.sealRegular(w.buf, content)
	if err == nil {
		_, err = writeAll(w.dst, sealed)
	}
	w.err, w.have = err, 0
	return err
}

// Write implements io.Writer.
func (w *SealWriter) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	content := w.buf[regularStart : regularStart+w.Length]
	for n < len(p) {
		m := w.writeParallel(p[n:])
		if n += m; w.err != nil {
			return n, w.err
		}
		if m > 0 {
			continue
		}
		if w.have == 0 && len(p)-n >= w.Length {
			if err := w.flush(p[n : n+w.Length]); err != nil {
				return n, err
			}
			n += w.Length
			continue
		}
		m = copy(content[w.have:], p[n:])
		w.have += m
		n += m
		if w.have == w.Length {
			if err := w.flush(content); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// ReadFrom implements io.ReaderFrom: it reads plaintext to where it is sealed, without a copy.
func (w *SealWriter) ReadFrom(r io.Reader) (total int64, err error) {
	if w.err != nil {
		return 0, w.err
	}
	content := w.buf[regularStart : regularStart+w.Length]
	for {
		m, err := w.readFromParallel(r)
		if total += m; err == io.EOF {
			return total, nil
		}
		if err != nil {
			w.err = err
			return total, err
		}
		n, err := read(r, content[w.have:], w.Length-w.have)
		w.have += n
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err == nil {
			err = w.flush(content)
		}
		if err != nil {
			w.err = err // a Close now would end a message that is not whole
			return total, err
		}
	}
}

// writeParallel seals the whole frames that b has, if there are enough, and returns how many bytes went to the destination.
func (w *SealWriter) writeParallel(b []byte) (n int) {
	if w.isSmall(len(b)) || w.have > 0 {
		return 0
	}
	p := w.parallel(false, len(b))
	if p == nil {
		return 0
	}
	defer p.close()
	p.in, p.dst = b, w.dst
	p.run()
	w.err = cmp.Or(p.bad, p.err)
	return int(p.given) / (w.Length + RegularOverhead) * w.Length
}

// readFromParallel returns io.EOF at the source's end. What is no whole frame then stands in buf.
func (w *SealWriter) readFromParallel(src io.Reader) (total int64, err error) {
	if w.have > 0 {
		return 0, nil
	}
	p := w.parallel(false, 0)
	if p == nil {
		return 0, nil
	}
	defer p.close()
	p.src, p.dst = src, w.dst
	p.run()
	if p.ended {
		w.have = copy(w.buf[regularStart:], p.tail)
		w.parallelFrom = never
	}
	return p.taken + int64(w.have), cmp.Or(p.bad, p.err, p.srcErr)
}

// Close seals and writes the final frame. A second Close does nothing.
func (w *SealWriter) Close() error {
	if w.closed {
		return nil
	}
	if w.err != nil {
		return w.err
	}
	copy(w.buf[finalStart:], w.buf[regularStart:regularStart+w.have])
	sealed, err := w.sealFinal(w.buf, w.buf[finalStart:finalStart+w.have])
	if err == nil {
		_, err = writeAll(w.dst, sealed)
	}
	if err != nil {
		w.err = err
		return err
	}
	w.err, w.closed = ErrClosed, true
	dropBuffer(&w.buf, 0) // sealed in place
	return nil
}
