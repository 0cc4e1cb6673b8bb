package transfer

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/checked"
)

// RangeObject is a [pikokms.Object] that is fetched in ranges, such as one behind HTTP, for a
// [pikokms.RangeStorage] to return. Reads in a row share one fetch. Later fetches are longer, so
// reading the whole in order takes a few of them. A fetch that breaks off is repeated from where it
// broke, a few times in a row. A ReadAt during another one makes a fetch of its own.
type RangeObject struct {
	*io.SectionReader // of ranges
	modTime           time.Time
	ranges            *ranges
}

// ranges is the io.ReaderAt of a RangeObject.
type ranges struct {
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

// ProbeSize is how many bytes of an object a pikokms.RangeStorage fetches when it opens one: enough
// for a header under a KMS key, or for the whole of a small object.
const ProbeSize = 4 << 10

const (
	firstFetch = 128 << 10 // bytes; two frames, and some more
	maxFetch   = 16 << 20  // bytes; longer fetches save no more time

	// maxBroken is how many fetches in a row may break off before a read fails. A fetch that
	// returned some bytes restarts the count.
	maxBroken = 3
)

// NewRangeObject returns an object of size bytes that begins with start, usually its first
// ProbeSize bytes, or all of it if it is smaller. The function fetch must return length bytes from
// offset, or more; both lie within size. If the object may be replaced meanwhile, fetch must return
// the old bytes or fail.
func NewRangeObject(size int64, modTime time.Time, start []byte, fetch func(offset, length int64) (io.ReadCloser, error)) *RangeObject {
	size = max(size, 0) // a negative size means that the server stated none
	r := &ranges{size: size, start: start[:min(int64(len(start)), size)], fetch: fetch}
	return &RangeObject{io.NewSectionReader(r, 0, size), modTime, r}
}

// ModTime returns when the object was stored.
func (o *RangeObject) ModTime() time.Time { return o.modTime }

// Close ends the fetch that is open. Reads that need a fetch then fail with [fs.ErrClosed]. A
// second Close returns what the first one did.
func (o *RangeObject) Close() error { return o.ranges.close() }

// Expect announces that n bytes of the original are read next, from a new position, so that one
// fetch gets all frames that hold them.
func (o *RangeObject) Expect(n int64) {
	o.ranges.mu.Lock()
	defer o.ranges.mu.Unlock()
	// These are the bytes, the overhead of their frames, and the rest of the frames at both ends.
	o.ranges.expected = n + n>>10 + 2*header.DefaultFrameLength
}

func (r *ranges) ReadAt(p []byte, off int64) (int, error) {
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

func (r *ranges) read(p []byte, off int64) (n int, err error) {
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
func (r *ranges) readAlone(p []byte, off int64) (int, error) {
	var stream *ranged
	n, err := r.fill(p, off, &stream, r.newRanged)
	return n, errors.Join(err, drop(&stream))
}

// fill reads p from off. It uses the stream if that is at off, and otherwise calls open.
func (r *ranges) fill(p []byte, off int64, stream **ranged, open func(off, need int64) (*ranged, error)) (n int, err error) {
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
func (r *ranges) open(off, need int64) (*ranged, error) {
	length := need
	switch {
	case r.run > 0 && off == r.next: // the run goes on
		length = min(2*r.run, maxFetch)
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

func (r *ranges) close() error {
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

func (r *ranges) newRanged(off, length int64) (*ranged, error) {
	body, err := r.fetch(off, length)
	if err != nil {
		return nil, err
	}
	return &ranged{body, checked.Reader{Source: body}, off, off + length}, nil
}

// read fills p, which must not be longer than the rest of the fetch.
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
