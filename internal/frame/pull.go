package frame

import (
	"io"

	"piko.sh/pikokms/internal/checked"
)

// pull is the shared part of SealReader and OpenReader.
type pull struct {
	frames sequence
	src    source
	buffer buffer
	held   buffer // of the previous frame, when a signed message is opened
	out    []byte // output that is not read yet, within buffer
	err    error  // the stream's first error, kept; io.EOF after the final frame
}

// puller is the part in which they differ.
type puller interface {
	// next produces the output of one more frame, in dst, or in the stream's buffer if dst is nil.
	// It reports whether the frame was the final one.
	next(dst []byte) (out []byte, final bool, err error)

	// room returns how many bytes a dst must have.
	room() int
}

func newPull(src io.Reader, c Config, opening bool) pull {
	return pull{frames: newSequence(c, opening), src: newSource(src)}
}

// next calls side.next and keeps its error.
func (r *pull) next(side puller, dst []byte) ([]byte, error) {
	if r.err != nil {
		r.buffer.drop() // all of it has been read
		r.held.drop()
		return nil, r.err
	}
	out, final, err := side.next(dst)
	if err != nil {
		r.err = err
		return nil, err
	}
	if final {
		r.err = io.EOF
	}
	return out, nil
}

func (r *pull) read(side puller, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.src.avoid(p)
	for len(r.out) == 0 {
		if n := r.readParallel(p); n > 0 {
			return n, nil
		}
		if room := side.room(); len(p) >= room {
			out, err := r.next(side, p[:room])
			if err != nil || len(out) > 0 {
				return len(out), err
			}
			continue
		}
		out, err := r.next(side, nil)
		if err != nil {
			return 0, err
		}
		r.out = out
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// writeTo writes the rest of the output frame by frame. What w does not take is read next.
func (r *pull) writeTo(side puller, w io.Writer) (written int64, err error) {
	for {
		if len(r.out) > 0 {
			n, err := r.writeOut(w)
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
		n, err := r.writeParallel(w)
		written += n
		if err != nil {
			return written, err
		}
		if r.out, err = r.next(side, nil); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
	}
}

// writeOut writes out to w. If w panics, nobody knows how much it took, so the stream fails from
// then on.
func (r *pull) writeOut(w io.Writer) (n int, err error) {
	out, kept := r.out, r.err
	r.out, r.err = nil, ErrAborted
	n, err = checked.Write(w, out)
	r.out, r.err = out[n:], kept
	return n, err
}

// readParallel produces output in b by several goroutines, as far as the source has input ready.
func (r *pull) readParallel(b []byte) (n int) {
	if r.err != nil || r.frames.isSmall(len(b)) {
		return 0
	}
	p := openPipeline(&r.frames, &r.src)
	if p == nil {
		return 0
	}
	defer p.close()
	p.into = b
	r.err = ErrAborted // stays if the source panics
	p.run()
	r.err = p.bad
	clear(b[p.delivered:p.used]) // plaintext of frames after a bad one
	return int(p.delivered)
}

// writeParallel writes the output of whole regular frames to w, by several goroutines.
func (r *pull) writeParallel(w io.Writer) (written int64, err error) {
	if r.err != nil {
		return 0, nil // next returns r.err
	}
	p := openPipeline(&r.frames, &r.src)
	if p == nil {
		return 0, nil
	}
	defer p.close()
	p.dst = w
	r.err = ErrAborted // stays if the source or w panics
	p.run()
	r.err = p.bad
	r.out = p.rest
	return p.delivered, p.dstErr
}
