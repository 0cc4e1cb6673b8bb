package pikokms

import (
	"errors"
	"io"
	"io/fs"
	"sync"

	"piko.sh/pikokms/internal/checked"
)

// RangeReaderAt gives random access to something that is fetched in ranges, such as an object
// behind HTTP. Reads in a row share one fetch. Later fetches are longer, so reading the whole in
// order takes a few of them. A fetch that breaks off is repeated from where it broke, a few times
// in a row.
//
// A RangeReaderAt is safe for concurrent use. A read that comes during another one makes a fetch of
// its own.
type RangeReaderAt struct {
	size  int64
	start []byte // the first bytes, which were fetched already
	fetch func(offset, length int64) (io.ReadCloser, error)

	mu       sync.Mutex
	stream   *ranged // the fetch that reads share; nil if there is none
	run      int64   // the length of the last fetch
	next     int64   // where the last read ended
	expected int64
	closed   bool
	closeErr error
}

const (
	firstFetch = 128 << 10 // bytes; two frames, and some more
	lastFetch  = 16 << 20  // bytes; longer fetches save no more time

	// maxBroken is how many fetches in a row may break off before a read fails. A fetch that
	// returned some bytes restarts the count.
	maxBroken = 3
)

// NewRangeReaderAt gives random access to size bytes, the first of which are start. The function
// fetch must return length bytes from offset; both lie within size. If the content may be replaced
// meanwhile, fetch must return the old bytes or fail.
func NewRangeReaderAt(size int64, start []byte, fetch func(offset, length int64) (io.ReadCloser, error)) *RangeReaderAt {
	size = max(size, 0) // a server that states less states nothing
	return &RangeReaderAt{size: size, start: start[:min(int64(len(start)), size)], fetch: fetch}
}

// Size returns the size in bytes.
func (r *RangeReaderAt) Size() int64 { return r.size }

// Expect announces that the next read elsewhere starts a run of about n bytes, so that one fetch
// gets all of them.
func (r *RangeReaderAt) Expect(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = n
}

// ReadAt implements [io.ReaderAt]. After Close, the error holds [fs.ErrClosed].
func (r *RangeReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("pikokms: negative offset")
	}
	if off >= r.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > r.size-off {
		p, atEnd = p[:r.size-off], io.EOF
	}
	n := 0
	if off < int64(len(r.start)) {
		n = copy(p, r.start[off:])
	}
	if n < len(p) {
		m, err := r.read(p[n:], off+int64(n))
		if n += m; err != nil {
			return n, err
		}
	}
	return n, atEnd
}

func (r *RangeReaderAt) read(p []byte, off int64) (n int, err error) {
	if !r.mu.TryLock() {
		return r.readAlone(p, off)
	}
	defer r.mu.Unlock()
	if r.closed {
		return 0, fs.ErrClosed
	}
	n, err = r.fill(p, off, &r.stream, r.open)
	r.next = off + int64(n)
	return n, err
}

// readAlone reads by a fetch that no other read shares.
func (r *RangeReaderAt) readAlone(p []byte, off int64) (int, error) {
	var stream *ranged
	n, err := r.fill(p, off, &stream, r.newRanged)
	return n, errors.Join(err, drop(&stream))
}

// fill reads p from off. It uses the stream if that is at off, and otherwise calls open.
func (r *RangeReaderAt) fill(p []byte, off int64, stream **ranged, open func(off, need int64) (*ranged, error)) (n int, err error) {
	for broken := 0; n < len(p); {
		at, need := off+int64(n), int64(len(p)-n)
		if s := *stream; s == nil || s.pos != at || s.end-s.pos < need {
			if err := drop(stream); err != nil {
				return n, err
			}
			opened, err := open(at, need)
			if err != nil {
				return n, err
			}
			*stream = opened
		}
		m, err := (*stream).read(p[n:])
		n += m
		if err == nil {
			break
		}
		if m > 0 {
			broken = 0
		}
		if broken++; broken == maxBroken {
			return n, errors.Join(cutShort(err), drop(stream))
		}
		_ = drop(stream) // the fetch is broken already
	}
	if s := *stream; s.pos == s.end {
		return n, drop(stream)
	}
	return n, nil
}

// open opens a stream from off. Its length grows with the run of reads so far.
func (r *RangeReaderAt) open(off, need int64) (*ranged, error) {
	length := need
	switch {
	case r.run > 0 && off == r.next: // the run goes on
		length = min(2*r.run, lastFetch)
	case r.expected > 0:
		length, r.expected = r.expected, 0
	}
	length = min(max(length, need), r.size-off)
	stream, err := r.newRanged(off, length)
	if err != nil {
		return nil, err
	}
	r.run = max(length, firstFetch)
	return stream, nil
}

// Close ends the fetch that is open. A second Close returns what the first one did.
func (r *RangeReaderAt) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed, r.closeErr = true, drop(&r.stream)
	}
	return r.closeErr
}

// ranged is a fetch that is under way.
type ranged struct {
	body     io.Closer
	source   checked.Reader // of body
	pos, end int64          // offsets of the bytes that are left
}

func (r *RangeReaderAt) newRanged(off, length int64) (*ranged, error) {
	body, err := r.fetch(off, length)
	if err != nil {
		return nil, err
	}
	return &ranged{body, checked.Reader{Source: body}, off, off + length}, nil
}

// read fills p, which must not be longer than what is left of the fetch.
func (s *ranged) read(p []byte) (int, error) {
	n, err := s.source.ReadFull(p)
	s.pos += int64(n)
	return n, err
}

// drop ends a fetch, if there is one.
func drop(stream **ranged) error {
	s := *stream
	if s == nil {
		return nil
	}
	*stream = nil
	return s.body.Close()
}

// cutShort turns the end of a fetch that ended too early into io.ErrUnexpectedEOF.
func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
