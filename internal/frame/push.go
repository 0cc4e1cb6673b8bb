package frame

import (
	"cmp"
	"io"

	"piko.sh/pikokms/internal/checked"
)

// push is the shared part of SealWriter and OpenWriter.
type push struct {
	frames sequence
	dst    io.Writer
	buffer buffer
	held   buffer // of the previous frame, when a signed message is opened
	have   int    // how many bytes of an incomplete frame are in buffer
	src    source // source of the current call

	// err is the stream's first error, kept, and ErrStreamClosed after a successful Close. During a
	// call it is ErrAborted. A panic of the source or destination leaves that in place, so a deferred
	// Close does not complete the body.
	err    error
	closed bool
	result error // what Close returned
}

// pusher is the part in which they differ.
type pusher interface {
	// step takes bytes of p, at most to the end of a frame. p is not empty.
	step(p []byte) (used int, err error)

	// fill reads the rest of a frame from src and processes it.
	fill(src *source) error

	// parallel reports whether the next bytes may be whole regular frames.
	parallel() bool

	// finish writes what is left at the end.
	finish() error
}

func newPush(dst io.Writer, c Config, opening bool) push {
	w := push{frames: newSequence(c, opening), dst: dst}
	w.buffer.take(w.frames.firstSize())
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

// writeParallel processes the whole regular frames at the start of b by several goroutines. It
// returns how many bytes of b it used.
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
	return int(p.delivered / int64(w.frames.outSize()) * int64(w.frames.inSize())), cmp.Or(p.dstErr, p.bad)
}

// readFromParallel processes the whole regular frames that src has by several goroutines, if src is
// long enough.
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
		w.err, w.result = ErrAborted, ErrAborted // stays if the destination panics
		w.result = side.finish()
	}
	w.err = cmp.Or(w.result, ErrStreamClosed)
	w.buffer.drop()
	w.held.drop()
	return w.result
}
