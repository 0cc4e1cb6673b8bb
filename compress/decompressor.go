package compress

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/cores"
)

type decompressor struct {
	t       *Transformer
	src     watched
	decoder io.Reader // nil before the first Read
	total   int64
	err     error // the stream's first error, kept
}

// watched is the source of a decoder. It remembers the source's own error and its last bytes, since
// the decoder may replace the error by one of its own.
type watched struct {
	reader checked.Reader
	ahead  []byte // bytes that isLong read, which come next
	size   int64
	tail   []byte // the last bytes read, up to tailSize
}

func (w *watched) Read(p []byte) (n int, err error) {
	if len(w.ahead) > 0 {
		n = copy(p, w.ahead)
		w.ahead = w.ahead[n:]
	} else {
		n, err = w.reader.Read(p)
	}
	w.size += int64(n)
	w.tail = append(w.tail, p[max(0, n-tailSize):n]...)
	w.tail = append(w.tail[:0], w.tail[max(0, len(w.tail)-tailSize):]...)
	return n, err
}

// tailSize is the size of the footer of a seek table or of the longest header of a frame of zstd,
// whichever is larger.
const tailSize = max(seekFooterSize, zstd.HeaderMaxSize)

// isLong reports whether the source has more than one chunk.
func (w *watched) isLong() bool {
	chunk := make([]byte, chunkSize)
	n, err := w.reader.ReadFull(chunk)
	w.ahead = chunk[:n]
	return err == nil
}

func (r *decompressor) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if err := r.src.reader.Context.Err(); err != nil {
		return 0, err
	}
	n, err := r.read(p)
	within, tooLarge := r.count(n)
	r.err = cmp.Or(tooLarge, err)
	return within, r.err
}

// count returns how many of n more bytes are within the bound, and ErrTooLarge if not all of them
// are.
func (r *decompressor) count(n int) (within int, err error) {
	if r.total += int64(n); r.total > r.t.maxSize {
		return int(max(0, int64(n)-(r.total-r.t.maxSize))), tooLarge(r.t.maxSize)
	}
	return n, nil
}

// tooLarge returns the error of a stream over the bound of its size.
func tooLarge(maxSize int64) error {
	return fmt.Errorf("%w: over %d bytes (the maxSize of New sets the limit; WithMaxDecompressedSize that of a host)", ErrTooLarge, maxSize)
}

func (r *decompressor) read(p []byte) (int, error) {
	if r.decoder == nil {
		decoder, err := r.t.decoder(&r.src, r.t.maxWindow())
		if err != nil {
			return 0, r.blame(err)
		}
		r.decoder = decoder
	}
	n, err := r.decoder.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		return n, r.atEnd()
	}
	return n, r.blame(err)
}

// atEnd returns io.EOF if the stream may end where the decoder is and the source ends there, too.
func (r *decompressor) atEnd() error {
	var next [1]byte
	switch n, err := r.src.Read(next[:]); {
	case n > 0:
		return fmt.Errorf("%w: %s: data follows its end", ErrCorrupt, r.t.format)
	case err != io.EOF:
		return err
	case r.src.size == 0: // even the compressed form of an empty stream has some bytes
		return fmt.Errorf("%w: %s: it is empty: %w", ErrCorrupt, r.t.format, io.ErrUnexpectedEOF)
	case r.t.end != nil:
		if err := r.t.end(r.src.tail, r.src.size); err != nil {
			return err
		}
	}
	return io.EOF
}

// blame returns the source's own error, if there is one. Otherwise it returns an error that says
// that the stream is corrupt.
func (r *decompressor) blame(err error) error {
	if sourceErr := r.src.reader.Err(); sourceErr != nil && sourceErr != io.EOF {
		return sourceErr
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		// The decoder also returns the first of these for a block that is larger than its frame's
		// window. Such a stream is corrupt.
		if stated := statedWindow(r.src.tail); stated > uint64(r.t.maxWindow()) {
			return windowError(r.t.format, "a window", stated, r.t.maxWindow())
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, r.t.format, err)
}

// windowError returns the error of a stream that needs more memory than MaxWindow allows. What is
// the part of it that has the stated size.
func windowError(format, what string, stated uint64, most int) error {
	return fmt.Errorf("%w: %s: %s of %d bytes, at most %d are taken (Transformer.MaxWindow sets the limit; WithMaxWindow that of a host)", ErrWindow, format, what, stated, most)
}

// statedWindow returns the window that the frame header at the end of b states, if there is one. A
// decoder that refuses a frame for its window has read no further (RFC 8878, section 3.1.1.1).
func statedWindow(b []byte) uint64 {
	for start := range b {
		var h zstd.Header
		if err := h.Decode(b[start:]); err != nil || h.Skippable || h.HeaderSize != len(b)-start {
			continue
		}
		if h.SingleSegment {
			return h.FrameContentSize
		}
		return h.WindowSize
	}
	return 0
}

// WriteTo decompresses a long stream on several goroutines, if the format has a decoder for that
// and cores are free.
func (r *decompressor) WriteTo(dst io.Writer) (int64, error) {
	if r.err == nil && r.decoder == nil && r.t.decodeTo != nil && cores.Most(r.t.Parallelism) > 1 && r.src.isLong() {
		others := cores.Take(r.t.Parallelism, cores.Most(r.t.Parallelism)-1)
		defer cores.Give(others)
		if others > 0 {
			return r.writeParallel(dst, 1+others)
		}
	}
	return checked.Copy(dst, &checked.Reader{Source: r})
}

func (r *decompressor) writeParallel(dst io.Writer, goroutines int) (int64, error) {
	w := &bounded{stream: r, dst: dst}
	src := &guarded{src: &r.src}
	err := r.t.decodeTo(w, src, goroutines)
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

// errPanicked stops a decoder after a panic in one of its goroutines, until WriteTo panics on the
// caller's.
var errPanicked = errors.New("compress: panic in a goroutine of the decoder")

// guarded is a source that catches a panic and keeps it for the goroutine that reads the stream.
type guarded struct {
	src      io.Reader
	panicked any
}

func (g *guarded) Read(p []byte) (n int, err error) {
	defer func() {
		if g.panicked = recover(); g.panicked != nil {
			err = errPanicked
		}
	}()
	return g.src.Read(p)
}

// bounded writes decompressed bytes up to the bound. It catches and keeps a panic, too.
type bounded struct {
	stream   *decompressor
	dst      io.Writer
	n        int64
	err      error // of the last Write
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
	if err := w.stream.src.reader.Context.Err(); err != nil {
		return 0, err
	}
	within, tooLarge := w.stream.count(len(p))
	if n, err = checked.Write(w.dst, p[:within]); err != nil {
		return n, err
	}
	return n, tooLarge
}
