package frame

import (
	"cmp"
	"fmt"
	"io"

	"piko.sh/pikokms/internal/memory"
)

// OpenReader is the pull side of opening: it reads a body from its source and gives the plaintext. It returns io.EOF only
// after a verified final frame that the source's end follows, with a footer between them if there is to be one.
type OpenReader struct {
	sequence
	src        io.Reader
	memory     memory.Source // src, if its bytes are in memory
	buf        []byte
	start, end int    // the bytes of buf that were read and not yet opened
	filled     int    // the most bytes of buf that were ever read
	out        []byte // plaintext still to be read, a part of buf
	err        error  // sticky; io.EOF once the final frame is open
}

// NewOpenReader returns an OpenReader of src, which must give the first frame next.
func NewOpenReader(src io.Reader, c Config) *OpenReader {
	r := &OpenReader{sequence: newSequence(c), src: src, memory: memory.Of(src)}
	r.buf = takeBuffer(r.bufferSize())
	return r
}

// fill reads until need bytes stand at buf[start:].
func (r *OpenReader) fill(need int) error {
	if r.end-r.start >= need {
		return nil
	}
	if len(r.buf)-r.start < need {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	for r.end-r.start < need {
		if r.end == len(r.buf) {
			r.buf = grow(r.buf, need)
		}
		n, err := read(r.src, r.buf[r.end:], min(need, len(r.buf)-r.start)-(r.end-r.start))
		r.end += n
		r.filled = max(r.filled, r.end)
		if err == io.EOF {
			return r.truncated()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grow makes room in a buffer for an unframed body, whose size nothing proves, only as its bytes arrive.
func grow(buf []byte, need int) []byte {
	return append(make([]byte, 0, min(need, 2*len(buf))), buf...)[:min(need, 2*len(buf))]
}

func (s *sequence) truncated() error {
	return fmt.Errorf("%w: within frame %d: %w", ErrTruncated, s.number, io.ErrUnexpectedEOF)
}

// next opens the next frame to dst[:0], or to the stream's own buffer when dst is nil.
func (r *OpenReader) next(dst []byte) (plaintext []byte, err error) {
	if r.err != nil {
		dropBuffer(&r.buf, r.filled) // all of it was read
		return nil, r.err
	}
	defer func() {
		if err != nil {
			r.err = err
		}
	}()
	if r.start == r.end {
		ahead := bytesAhead(r.memory)
		if need, final, whole, err := r.measure(ahead); err == nil && whole && !final && len(ahead) >= need {
			if dst == nil {
				dst, r.filled = r.buf, max(r.filled, r.Length)
			}
			plaintext, err := r.open(dst, ahead[:need], false)
			r.memory.Skip(need)
			return plaintext, err
		}
	}
	for {
		need, final, whole, err := r.measure(r.buf[r.start:r.end])
		if err != nil {
			return nil, err
		}
		if err := r.fill(need); err != nil {
			return nil, err
		}
		if !whole {
			continue
		}
		frame := r.buf[r.start : r.start+need]
		r.start += need
		if !final {
			return r.open(dst, frame, false)
		}
		footer, err := r.rest()
		if err != nil {
			return nil, err
		}
		plaintext, err := r.open(dst, frame, true)
		if err != nil {
			return nil, err
		}
		if r.Footer != nil {
			if err := r.Footer(footer); err != nil {
				clear(plaintext)
				return nil, err
			}
		}
		r.err = io.EOF
		return plaintext, nil
	}
}

// rest reads what stands behind the body, up to the source's end: nothing, or a footer if there is to be one.
func (r *OpenReader) rest() ([]byte, error) {
	most := 0
	if r.Footer != nil {
		most = maxFooter
	}
	if r.end-r.start > most {
		return nil, ErrTrailingData
	}
	footer := make([]byte, most+1)
	n := copy(footer, r.buf[r.start:r.end])
	m, err := read(r.src, footer[n:], len(footer)-n)
	if n+m > most {
		return nil, ErrTrailingData
	}
	if err != io.EOF {
		return nil, err
	}
	return footer[:n+m], nil
}

// Read implements io.Reader. A p of at least the frame length receives a frame's plaintext without a copy.
func (r *OpenReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if memory.Overlap(p, bytesAhead(r.memory)) {
		r.memory = nil
	}
	for len(r.out) == 0 {
		if n := r.readParallel(p); n > 0 {
			return n, nil
		}
		if len(p) >= r.Length {
			plaintext, err := r.next(p)
			if err != nil || len(plaintext) > 0 {
				return len(plaintext), err
			}
			continue
		}
		plaintext, err := r.next(nil)
		if err != nil {
			return 0, err
		}
		r.out = plaintext
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: it writes the rest of the plaintext frame by frame, without a copy.
func (r *OpenReader) WriteTo(w io.Writer) (int64, error) {
	return writeAllFrames(w, &r.out,
		func() (int64, error) { return r.writeParallel(w) },
		func() ([]byte, error) { return r.next(nil) })
}

// readParallel opens frames to b, as many as it has room for and the source gives at once.
func (r *OpenReader) readParallel(b []byte) (n int) {
	if r.isSmall(len(b)) || r.err != nil {
		return 0
	}
	p := r.parallelOf(true, r.src, r.memory, r.buf[r.start:r.end])
	if p == nil {
		return 0
	}
	defer p.close()
	p.into = b
	p.run()
	r.leave(p)
	clear(b[p.given:p.used]) // frames behind a bad one
	return int(p.given)
}

func (r *OpenReader) writeParallel(w io.Writer) (written int64, err error) {
	if r.err != nil {
		return 0, nil // next returns it
	}
	p := r.parallelOf(true, r.src, r.memory, r.buf[r.start:r.end])
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

// leave leaves the source to next once something else than a whole regular frame comes.
func (r *OpenReader) leave(p *pipeline) {
	r.err = p.bad
	r.start, r.end = 0, 0
	if p.ended {
		r.src, r.memory = &pushedBack{p.tail, p.srcErr, r.src}, nil
		r.parallelFrom = never
	}
}

// OpenWriter is the push side of opening: a body written to it goes to its destination as plaintext, each frame once its
// tag is verified, the final frame at Close. Without a Close that returns nil the plaintext is not whole.
type OpenWriter struct {
	sequence
	dst    io.Writer
	buf    []byte // an incomplete frame, or the plaintext of the final one
	have   int
	filled int    // the most bytes of buf that were ever used
	last   []byte // the final frame's plaintext
	done   bool   // the final frame is open

	footer []byte

	err    error // sticky; ErrClosed may also be the destination's
	closed bool
}

// NewOpenWriter returns an OpenWriter to dst. Closing it does not close dst.
func NewOpenWriter(dst io.Writer, c Config) *OpenWriter {
	w := &OpenWriter{sequence: newSequence(c), dst: dst}
	w.buf = takeBuffer(w.bufferSize())
	return w
}

// Write implements io.Writer.
func (w *OpenWriter) Write(p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for n < len(p) {
		m := w.writeParallel(p[n:])
		if n += m; w.err != nil {
			return n, w.err
		}
		if m > 0 {
			continue
		}
		used, err := w.step(p[n:])
		n += used
		if err != nil {
			w.err = err
			return n, err
		}
	}
	return n, nil
}

// step takes bytes of p as far as the next decision. Bytes that measure has seen are whole or fewer than it needs.
func (w *OpenWriter) step(p []byte) (used int, err error) {
	if w.done {
		if w.Footer == nil || len(w.footer)+len(p) > maxFooter {
			return 0, ErrTrailingData
		}
		w.footer = append(w.footer, p...)
		return len(p), nil
	}
	held := w.buf[:w.have]
	direct := w.have == 0
	if direct {
		held = p // a frame that p holds whole needs no gathering
	}
	need, final, whole, err := w.measure(held)
	if err != nil {
		return 0, err
	}
	if direct && len(p) >= need {
		return need, w.release(w.buf, p[:need], final)
	}
	for len(w.buf) < need && len(w.buf) < w.have+len(p) {
		w.buf = grow(w.buf, need)
	}
	used = copy(w.buf[w.have:min(need, len(w.buf))], p)
	w.have += used
	w.filled = max(w.filled, w.have)
	if w.have == need && whole {
		w.have = 0
		return used, w.release(nil, w.buf[:need], final)
	}
	return used, nil
}

// release opens a frame to dst, which is buf, or in place, which is there, too.
func (w *OpenWriter) release(dst, frame []byte, final bool) error {
	w.filled = max(w.filled, len(frame))
	plaintext, err := w.open(dst, frame, final)
	if err != nil {
		return err
	}
	if final {
		w.last, w.done = plaintext, true
		return nil
	}
	_, err = writeAll(w.dst, plaintext)
	return err
}

// writeParallel opens the whole regular frames that b begins with, if there are enough, and returns how many bytes of b they have.
func (w *OpenWriter) writeParallel(b []byte) (n int) {
	if w.isSmall(len(b)) || w.have > 0 || w.done {
		return 0
	}
	p := w.parallel(true, len(b))
	if p == nil {
		return 0
	}
	defer p.close()
	p.in, p.dst = b, w.dst
	p.run()
	w.err = cmp.Or(p.err, p.bad)
	return int(p.given) / w.Length * (w.Length + RegularOverhead)
}

// ReadFrom implements io.ReaderFrom: it reads a body to where it is opened, without a copy.
func (w *OpenWriter) ReadFrom(r io.Reader) (total int64, err error) {
	if w.err != nil {
		return 0, w.err
	}
	for {
		n, err := w.readFromParallel(r)
		total += n
		if err == nil {
			n, err = w.readFrame(r)
			total += n
		}
		if err == io.EOF {
			return total, nil // Close says if that was the end
		}
		if err != nil {
			w.err = err
			return total, err
		}
	}
}

// readFrame reads on until the next decision.
func (w *OpenWriter) readFrame(r io.Reader) (total int64, err error) {
	if w.done {
		var behind [1]byte
		n, err := read(r, behind[:], 1)
		if err == nil {
			_, err = w.step(behind[:])
		}
		return int64(n), err
	}
	need, final, whole, err := w.measure(w.buf[:w.have])
	if err != nil {
		return 0, err
	}
	if len(w.buf) < need {
		w.buf = grow(w.buf, need)
	}
	most := min(len(w.buf), need)
	if !w.Unframed && !final {
		most = w.Length + RegularOverhead // a final frame that is read with it is shorter, and no frame follows that
	}
	n := 0
	if w.have < need {
		n, err = read(r, w.buf[w.have:most], min(need, most)-w.have)
		w.have += n
		w.filled = max(w.filled, w.have)
	}
	if err != nil || w.have < need || !whole {
		return int64(n), err
	}
	behind := w.buf[need:w.have]
	w.have = 0
	if err := w.release(nil, w.buf[:need], final); err != nil || len(behind) == 0 {
		return int64(n), err
	}
	_, err = w.step(behind)
	return int64(n), err
}

func (w *OpenWriter) readFromParallel(src io.Reader) (total int64, err error) {
	if w.have > 0 || w.done {
		return 0, nil
	}
	p := w.parallel(true, 0)
	if p == nil {
		return 0, nil
	}
	defer p.close()
	p.src, p.dst = src, w.dst
	p.run()
	if p.ended {
		w.parallelFrom = never
	}
	total = p.taken + int64(len(p.tail))
	if err := cmp.Or(p.err, p.bad); err != nil {
		return total, err
	}
	for tail := p.tail; len(tail) > 0; {
		used, err := w.step(tail)
		if err != nil {
			return total, err
		}
		tail = tail[used:]
	}
	return total, p.srcErr
}

// Close releases the final frame's plaintext. The error holds ErrTruncated when the body has not come to its end.
// A second Close does nothing.
func (w *OpenWriter) Close() error {
	if w.closed {
		return nil
	}
	if w.err != nil {
		return w.err
	}
	if !w.done {
		w.err = w.truncated()
		return w.err
	}
	if w.Footer != nil {
		if w.err = w.Footer(w.footer); w.err != nil {
			clear(w.last)
			return w.err
		}
	}
	if len(w.last) > 0 {
		if _, w.err = writeAll(w.dst, w.last); w.err != nil {
			return w.err
		}
	}
	w.err, w.closed = ErrClosed, true
	dropBuffer(&w.buf, min(w.filled, len(w.buf)))
	w.last = nil
	return nil
}
