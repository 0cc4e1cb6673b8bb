package message

import (
	"context"
	"io"
	"os"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/memory"
)

// source is a stream's source. When its context ends, the next read fails. After a failure it is
// not read again.
type source struct {
	checked checked.Reader
	memory  memory.Source   // the source, if its bytes are in memory already
	count   func(bytes int) // counts the data key's use; may be nil
}

func newSource(ctx context.Context, r io.Reader, count func(bytes int)) source {
	return source{checked.Reader{Context: ctx, Source: r}, memory.Of(r), count}
}

// Read returns either bytes or an error.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.checked.Read(p)
	if s.count != nil && n > 0 {
		s.count(n)
	}
	return n, err
}

// Ahead returns bytes that are in memory already. Read returns all others.
func (s *source) Ahead() []byte {
	if s.memory == nil || s.checked.Err() != nil || s.checked.Context.Err() != nil {
		return nil
	}
	return s.memory.Ahead()
}

func (s *source) Skip(n int) {
	s.memory.Skip(n)
	if s.count != nil {
		s.count(n)
	}
}

// remaining returns how many bytes the source still has, if that is known.
func (s *source) remaining() (n int64, known bool) {
	switch r := s.checked.Source.(type) {
	case interface{ Len() int }:
		return int64(r.Len()), true
	case *os.File:
		if info, err := r.Stat(); err != nil || !info.Mode().IsRegular() {
			return 0, false // a device can be sought, but has no end
		}
	}
	seeker, ok := s.checked.Source.(io.Seeker)
	if !ok {
		return 0, false
	}
	at, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if _, back := seeker.Seek(at, io.SeekStart); back != nil {
		// The source could not seek back, so its next bytes may be any.
		s.checked, s.memory = checked.Reader{Context: s.checked.Context, Source: failed{back}}, nil
		return 0, false
	}
	return max(0, end-at), err == nil
}

// failed is a source that can't be read any more.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// messageSource is the source of a message. It reads ahead a little. So a header, which is parsed
// in small pieces, takes few reads, and peek can look at the first bytes.
type messageSource struct {
	source
	buf   [512]byte
	ahead []byte // bytes of buf that are still to be read
}

// peek returns the next n bytes, or fewer if the source ends or fails before. Read then returns the
// error.
func (s *messageSource) peek(n int) []byte {
	if ahead := s.Ahead(); len(ahead) > 0 {
		return ahead[:min(n, len(ahead))]
	}
	for len(s.ahead) < n {
		m, err := s.source.Read(s.buf[len(s.ahead):])
		if err != nil {
			break
		}
		s.ahead = s.buf[:len(s.ahead)+m]
	}
	return s.ahead[:min(n, len(s.ahead))]
}

func (s *messageSource) Ahead() []byte {
	if len(s.ahead) > 0 {
		return nil
	}
	return s.source.Ahead()
}

func (s *messageSource) Read(p []byte) (int, error) {
	if len(s.ahead) == 0 {
		if len(p) >= len(s.buf) || s.memory != nil {
			return s.source.Read(p)
		}
		n, err := s.source.Read(s.buf[:])
		if err != nil {
			return 0, err
		}
		s.ahead = s.buf[:n]
	}
	n := copy(p, s.ahead)
	s.ahead = s.ahead[n:]
	return n, nil
}

// destination is a stream's destination. When its context ends, the next write fails.
type destination struct {
	ctx   context.Context
	w     io.Writer
	count func(bytes int) // counts the data key's use; may be nil
}

func (d *destination) Write(p []byte) (int, error) {
	if err := d.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := checked.Write(d.w, p)
	if d.count != nil {
		d.count(n)
	}
	return n, err
}

// sourceAt is the source of random access. When its context ends, reads fail.
type sourceAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (s *sourceAt) ReadAt(p []byte, off int64) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return checked.ReadAt(s.r, p, off)
}
