package frame

import (
	"cmp"
	"io"

	"piko.sh/pikokms/internal/checked"
)

// push is what SealWriter and OpenWriter have in common.
type push struct {
	frames sequence
	dst    io.Writer
	buffer buffer
	have   int    // bytes of an incomplete frame that are in buffer
	src    source // of the call that is under way

	// err is the stream's first error, which it keeps, and ErrClosed after a good Close. During a
	// call it is ErrAborted: a panic of the source or destination leaves it there, so that a
	// deferred Close does not take what came before for the whole.
	err    error
	closed bool
	result error // Close's
}

// pusher is what they differ in.
type pusher interface {
	// step takes bytes of p, which is not empty, at most to the end of a frame.
	step(p []byte) (used int, err error)

	// fill reads the rest of a frame from src, and passes it on.
	fill(src *source) error

	// parallel tells whether regular frames may come next.
	parallel() bool

	// finish writes what is left at the end.
	finish() error
}

func newPush(dst io.Writer, c Config, opening bool) push {
	w := push{frames: newSequence(c, opening), dst: dst}
	w.buffer.take(w.frames.bufferSize())
	return w
}

func (w *push) write(side pusher, p []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	w.err = ErrAborted
	for n < len(p) && err == nil {
		used := 0
		if used, err = w.writeParallel(side, p[n:]); used == 0 && err == nil {
			used, err = side.step(p[n:])
		}
		n += used
	}
	w.err = err
	return n, err
}

func (w *push) readFrom(side pusher, r io.Reader) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.err = ErrAborted
	w.src = source{reader: checked.Reader{Source: r}}
	var err error
	for err == nil {
		if err = w.readFromParallel(side); err == nil {
			err = side.fill(&w.src)
		}
	}
	if err == io.EOF {
		err = nil
	}
	n := w.src.count
	w.src = source{}
	w.err = err
	return n, err
}

// writeParallel passes on the whole regular frames that b has, and returns how many bytes of b went
// to the destination with them.
func (w *push) writeParallel(side pusher, b []byte) (used int, err error) {
	if w.frames.isSmall(len(b)) || !side.parallel() {
		return 0, nil
	}
	w.src = source{given: b}
	defer func() { w.src = source{} }()
	p := openPipeline(&w.frames, &w.src)
	if p == nil {
		return 0, nil
	}
	defer p.close()
	p.dst = w.dst
	p.run()
	return int(p.delivered) / w.frames.outSize() * w.frames.inSize(), cmp.Or(p.dstErr, p.bad)
}

// readFromParallel passes on what src has of whole regular frames, if it is long enough.
func (w *push) readFromParallel(side pusher) error {
	if !side.parallel() {
		return nil
	}
	p := openPipeline(&w.frames, &w.src)
	if p == nil {
		return nil
	}
	defer p.close()
	p.dst = w.dst
	p.run()
	return cmp.Or(p.dstErr, p.bad)
}

func (w *push) close(side pusher) error {
	if w.closed {
		return w.result
	}
	w.closed, w.result = true, w.err
	if w.err == nil {
		w.err, w.result = ErrAborted, ErrAborted // for a panic of the destination
		w.result = side.finish()
	}
	w.err = cmp.Or(w.result, ErrClosed)
	w.buffer.drop()
	return w.result
}
