package compress

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
)

const (
	// parallelFrom is the number of bytes before compression that a stream is compressed on one core before it takes several.
	parallelFrom = 1 << 20

	// MaxDefaultParallelism bounds what a Parallelism of 0 means.
	MaxDefaultParallelism = 8
)

// coresTaken counts the goroutines that the calls of all streams may have at work.
var coresTaken atomic.Int32

// takeCores returns how many goroutines a call may have at work. The call gives them back with giveCores before it returns. By default
// streams share the cores, so that the memory of many is no more than that of one for each core.
func (s *Transformer) takeCores() int {
	n := s.Parallelism
	if n == 0 {
		n = min(MaxDefaultParallelism, runtime.GOMAXPROCS(0)-int(coresTaken.Load()))
	}
	n = max(1, n)
	coresTaken.Add(int32(n))
	return n
}

func giveCores(n int) { coresTaken.Add(-int32(n)) }

// most is the most that takeCores returns.
func (s *Transformer) most() int {
	if s.Parallelism == 0 {
		return min(MaxDefaultParallelism, runtime.GOMAXPROCS(0))
	}
	return max(1, s.Parallelism)
}

// WriteTo implements io.WriterTo: a long stream is decompressed on several cores meanwhile, if its format has a decoder for that.
func (r *decompressor) WriteTo(dst io.Writer) (int64, error) {
	if r.err == nil && r.decoder == nil && r.stage.decodeTo != nil && r.stage.most() > 1 && r.isLong() {
		cores := r.stage.takeCores()
		defer giveCores(cores)
		if cores > 1 {
			return r.writeParallel(dst, cores)
		}
	}
	return io.Copy(dst, struct{ io.Reader }{r})
}

// isLong tells whether the stream is worth several cores: its end is not in sight.
func (r *decompressor) isLong() bool {
	src := bufio.NewReaderSize(r.src.r, chunkSize)
	r.src.r = src
	start, err := src.Peek(chunkSize)
	if err != nil {
		r.src.r = io.MultiReader(bytes.NewReader(start), ended{err}) // nobody asks the source again
	}
	return err == nil
}

// ended is a source that had come to its end, or failed, before.
type ended struct{ err error }

func (e ended) Read([]byte) (int, error) { return 0, e.err }

func (r *decompressor) writeParallel(dst io.Writer, cores int) (int64, error) {
	w := &bounded{stream: r, dst: dst}
	src := &guarded{Reader: r.src}
	err := r.stage.decodeTo(w, src, cores)
	switch panicked := cmp.Or(src.panicked, w.panicked); {
	case panicked != nil:
		panic(panicked)
	case w.err != nil:
		r.err = w.err
	case err != nil:
		r.err = r.blame(err)
	default:
		r.err = r.atEnd()
	}
	if r.err == io.EOF {
		return w.n, nil
	}
	return w.n, r.err
}

// errPanicked stops a decoder until its caller panics in its place.
var errPanicked = errors.New("compress: panic in a goroutine of the decoder")

// guarded is a reader whose panics wait for the goroutine that they should reach.
type guarded struct {
	io.Reader
	panicked any
}

func (g *guarded) Read(p []byte) (n int, err error) {
	defer func() {
		if g.panicked = recover(); g.panicked != nil {
			err = errPanicked
		}
	}()
	return g.Reader.Read(p)
}

// bounded writes what a stream decompresses to, as far as the stage's bound. Its panics wait, too.
type bounded struct {
	stream   *decompressor
	dst      io.Writer
	n        int64
	err      error // the last Write's
	panicked any
}

func (w *bounded) Write(p []byte) (n int, err error) {
	defer func() {
		if w.panicked = recover(); w.panicked != nil {
			err = errPanicked
		}
		w.n += int64(n)
		w.err = err
	}()
	if err := w.stream.ctx.Err(); err != nil {
		return 0, err
	}
	within, tooLarge := w.stream.count(len(p))
	if n, err = w.dst.Write(p[:within]); err == io.EOF {
		err = fmt.Errorf("compress: the destination: %w", err) // not the stream's own end
	}
	if err != nil {
		return n, err
	}
	if n < within {
		return n, io.ErrShortWrite
	}
	return n, tooLarge
}
