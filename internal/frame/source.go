package frame

import (
	"io"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/memory"
)

// source is what a stream reads from.
type source struct {
	reader checked.Reader
	memory memory.Source // the reader's source, if its bytes are in memory already
	given  []byte        // the bytes of a Write, if there is no reader
	count  int64         // bytes that the reader gave

	unread []byte // bytes that a pipeline read and gave back; they come next
	mixed  bool   // what follows may not be a whole regular frame, so no pipeline takes more
}

func newSource(r io.Reader) source {
	return source{reader: checked.Reader{Source: r}, memory: memory.Of(r)}
}

// ahead returns the next bytes if they are in memory, and otherwise nothing.
func (s *source) ahead() []byte {
	switch {
	case len(s.unread) > 0 || s.reader.Err() != nil:
		return nil
	case s.memory != nil:
		return s.memory.Ahead()
	}
	return s.given
}

// skip advances by n bytes of ahead.
func (s *source) skip(n int) {
	if s.memory != nil {
		s.memory.Skip(n)
		return
	}
	s.given = s.given[n:]
}

// avoid makes the stream copy its input if that overlaps p, which output is about to be written to.
func (s *source) avoid(p []byte) {
	if memory.Overlap(p, s.ahead()) {
		s.memory = nil
	}
}

// readAtLeast is [checked.Reader.ReadAtLeast].
func (s *source) readAtLeast(p []byte, atLeast int) (n int, err error) {
	if len(s.unread) > 0 {
		n = copy(p, s.unread)
		clear(s.unread[:n]) // it may be plaintext
		s.unread = s.unread[n:]
	}
	if n >= atLeast {
		return n, nil
	}
	m, err := s.reader.ReadAtLeast(p[n:], atLeast-n)
	s.count += int64(m)
	return n + m, err
}

// readMultiple reads to p what the source has ready, and then up to a multiple of size bytes.
func (s *source) readMultiple(p []byte, size int) (n int, err error) {
	n, err = s.readAtLeast(p, 1)
	if missing := (size - n%size) % size; err == nil && missing > 0 {
		m, err := s.readAtLeast(p[n:n+missing], missing)
		return n + m, err
	}
	return n, err
}
