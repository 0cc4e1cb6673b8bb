package frame

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/recent"
)

// ReaderAt gives random access to the plaintext of a stored body. It reads and decrypts the frames
// that a range needs, and no others. It is safe for concurrent use.
//
// It does not look at frames outside the range, so a change in them goes unseen until they are
// read. The number of frames is certain, since NewReaderAt verifies the final frame at the place
// that the body's size gives it.
type ReaderAt struct {
	config Config
	src    io.ReaderAt
	start  int64 // of the body in src
	frames int64 // number of regular frames, which is also the index of the final one
	size   int64 // of the plaintext

	recent recent.Parts // opened frames
	pool   sync.Pool    // of *opener
}

// opener is the state and the buffer for opening one frame.
type opener struct {
	sequence sequence
	buf      []byte
}

// NewReaderAt returns a ReaderAt of the body of n bytes that begins at start in src. It verifies
// the final frame. It refuses a body that is unframed or has a footer, since no part of those can
// be verified alone.
//
// The error holds [ErrMalformed], [ErrTruncated], [ErrSequence] or [ErrAuthentication], or is src's
// own.
func NewReaderAt(src io.ReaderAt, start, n int64, c Config) (*ReaderAt, error) {
	if c.Unframed || c.Footer != nil {
		return nil, fmt.Errorf("%w: an unframed or signed body has no frames to be read alone", ErrMalformed)
	}
	size, err := PlaintextSize(n, c.Length)
	if err != nil {
		return nil, err
	}
	frames := (n - FinalOverhead) / (int64(c.Length) + RegularOverhead)
	r := &ReaderAt{config: c, src: src, start: start, size: size, frames: frames}
	r.pool.New = func() any {
		return &opener{sequence: newSequence(c, true)}
	}
	plaintext, err := r.open(nil, r.frames)
	if err != nil {
		return nil, err
	}
	r.recent.Keep(r.frames*int64(c.Length), plaintext)
	return r, nil
}

// Size returns the number of bytes of plaintext.
func (r *ReaderAt) Size() int64 { return r.size }

// ReadAt implements [io.ReaderAt]. It asks readFrame for each frame that p touches.
func (r *ReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("frame: negative offset")
	}
	return recent.ReadAt(p, off, r.size, r.readFrame)
}

// readFrame copies to p the plaintext from off to the end of the frame that contains off.
func (r *ReaderAt) readFrame(p []byte, off int64) (int, error) {
	if n := r.recent.Copy(p, off); n > 0 {
		return n, nil
	}
	length := r.config.Length
	index, within := off/int64(length), off%int64(length)
	if within == 0 && index < r.frames && len(p) >= length {
		if _, err := r.open(p, index); err != nil {
			return 0, err
		}
		return length, nil
	}
	plaintext, err := r.open(nil, index)
	if err != nil {
		return 0, err
	}
	r.recent.Keep(off-within, plaintext)
	return copy(p, plaintext[within:]), nil
}

// read reads n bytes of src from off to the opener's buffer. A frame in a buffer that is too small
// for it is read in pieces, the first of 64 KiB and each as long as all before it. So a ReaderAt,
// like a stream, takes memory for what arrives, whatever the body's size and the header claim.
func (o *opener) read(src io.ReaderAt, n int, off int64) ([]byte, error) {
	for have := 0; have < n; {
		if size := min(n, max(pooledSize, have+min(have, n-have))); len(o.buf) < size {
			o.buf = append(make([]byte, 0, size), o.buf[:have]...)[:size]
		}
		end := min(n, len(o.buf))
		if _, err := checked.ReadAt(src, o.buf[have:end], off+int64(have)); err != nil {
			return nil, err
		}
		have = end
	}
	return o.buf[:n], nil
}

// open reads and opens the frame of an index, counted from 0. It uses dst if that is not nil.
func (r *ReaderAt) open(dst []byte, index int64) ([]byte, error) {
	o := r.pool.Get().(*opener)
	defer r.pool.Put(o)
	o.sequence.number = uint32(index + 1)
	regular, isFinal := int64(o.sequence.regularSize()), index == r.frames
	size := regular
	if isFinal {
		size = FinalOverhead + r.size - r.frames*int64(r.config.Length)
	}
	stored, err := o.read(r.src, int(size), r.start+index*regular)
	if err == io.EOF {
		return nil, o.sequence.truncated()
	}
	if err != nil {
		return nil, err
	}
	need, final, whole, err := o.sequence.measure(stored)
	if err != nil {
		return nil, err
	}
	if !whole || final != isFinal || need != len(stored) {
		return nil, fmt.Errorf("%w: frame %d is not of the size that its place gives it", ErrSequence, index+1)
	}
	if dst == nil {
		dst = make([]byte, 0, len(stored))
	}
	return o.sequence.open(dst[:0], stored, final)
}
