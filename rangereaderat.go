package pikokms

import (
	"errors"
	"io"
	"sync"
)

// RangeReaderAt is random access to something that is fetched by ranges, such as an object behind HTTP. Reads in a row share one
// fetch, which grows as they go on, so that a run through the whole takes a few. It is safe for concurrent use; a read that comes
// while another is under way has a fetch of its own.
type RangeReaderAt struct {
	size  int64
	start []byte // the first bytes, fetched already
	fetch func(offset, length int64) (io.ReadCloser, error)

	mu       sync.Mutex
	stream   io.ReadCloser // nil if there is none
	pos, end int64         // what stream still gives
	run      int64         // the length of the last fetch
	expected int64
}

const (
	firstFetch = 128 << 10 // bytes; a frame and its neighbour
	lastFetch  = 16 << 20  // bytes; more no longer saves time per byte
)

// NewRangeReaderAt returns random access to size bytes, of which start has the first. fetch returns length bytes from offset, both of
// which lie within size.
func NewRangeReaderAt(size int64, start []byte, fetch func(offset, length int64) (io.ReadCloser, error)) *RangeReaderAt {
	return &RangeReaderAt{size: size, start: start[:min(int64(len(start)), size)], fetch: fetch}
}

// Size returns the size in bytes.
func (r *RangeReaderAt) Size() int64 { return r.size }

// Expect says that the next read elsewhere begins a run of about n bytes, so that one fetch has it all.
func (r *RangeReaderAt) Expect(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = n
}

// ReadAt implements io.ReaderAt.
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

func (r *RangeReaderAt) read(p []byte, off int64) (int, error) {
	if !r.mu.TryLock() {
		return r.fetchAlone(p, off)
	}
	defer r.mu.Unlock()
	need := int64(len(p))
	if r.stream == nil || off != r.pos || need > r.end-off {
		if err := r.refetch(off, need); err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(r.stream, p)
	r.pos += int64(n)
	if err != nil {
		return n, errors.Join(cutShort(err), r.drop())
	}
	if r.pos == r.end {
		return n, r.drop()
	}
	return n, nil
}

// refetch replaces the stream by one that begins at off.
func (r *RangeReaderAt) refetch(off, need int64) error {
	length := int64(firstFetch)
	switch {
	case off == r.pos && r.run > 0: // the run goes on
		length = min(2*r.run, lastFetch)
	case r.expected > 0:
		length, r.expected = r.expected, 0
	default:
		length = need
	}
	length = min(max(length, need), r.size-off)
	if err := r.drop(); err != nil {
		return err
	}
	stream, err := r.fetch(off, length)
	if err != nil {
		return err
	}
	r.stream, r.pos, r.end, r.run = stream, off, off+length, max(length, firstFetch)
	return nil
}

func (r *RangeReaderAt) fetchAlone(p []byte, off int64) (n int, err error) {
	stream, err := r.fetch(off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err = io.ReadFull(stream, p)
	if err != nil {
		err = cutShort(err)
	}
	return n, errors.Join(err, stream.Close())
}

func cutShort(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *RangeReaderAt) drop() error {
	if r.stream == nil {
		return nil
	}
	err := r.stream.Close()
	r.stream = nil
	return err
}

// Close ends the fetch that is open.
func (r *RangeReaderAt) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drop()
}
