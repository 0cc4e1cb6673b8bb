package message

import (
	"context"
	"fmt"
	"io"
	"os"

	"piko.sh/pikokms/internal/memory"
)

// contextReader ends a stream with its context, at the next read of the source.
type contextReader struct {
	ctx    context.Context
	r      io.Reader
	memory memory.Source   // r, if its bytes are in memory
	count  func(bytes int) // of the data key; may be nil
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if n < 0 || n > len(p) {
		return 0, fmt.Errorf("message: the source says it read %d bytes into %d", n, len(p))
	}
	if r.count != nil && n > 0 {
		r.count(n)
	}
	return n, err
}

// Ahead implements memory.Source. What it does not show is for Read.
func (r *contextReader) Ahead() []byte {
	if r.memory == nil || r.ctx.Err() != nil {
		return nil
	}
	return r.memory.Ahead()
}

// Skip implements memory.Source.
func (r *contextReader) Skip(n int) {
	r.memory.Skip(n)
	if r.count != nil {
		r.count(n)
	}
}

// sourceReader is a contextReader that reads ahead a little, so that a header, which is read in small pieces, takes few reads of
// the source, and so that its first bytes can be looked at.
type sourceReader struct {
	contextReader
	buf   [512]byte
	ahead []byte // the bytes of buf that are still to be read
	err   error  // that came with them
}

// peek returns the next n bytes, or fewer where the source has no more at hand.
func (r *sourceReader) peek(n int) []byte {
	if ahead := r.Ahead(); len(ahead) > 0 {
		return ahead[:min(n, len(ahead))]
	}
	for empty := 0; len(r.ahead) < n && r.err == nil && empty < 100; empty++ {
		var m int
		m, r.err = r.contextReader.Read(r.buf[len(r.ahead):])
		r.ahead = r.buf[:len(r.ahead)+m]
	}
	return r.ahead[:min(n, len(r.ahead))]
}

func (r *sourceReader) Read(p []byte) (n int, err error) {
	if len(r.ahead) == 0 && r.err == nil {
		if len(p) >= len(r.buf) || r.memory != nil {
			return r.contextReader.Read(p)
		}
		n, r.err = r.contextReader.Read(r.buf[:])
		r.ahead = r.buf[:n]
	}
	if len(r.ahead) == 0 {
		err, r.err = r.err, nil
		return 0, err
	}
	n = copy(p, r.ahead)
	r.ahead = r.ahead[n:]
	return n, nil
}

// remaining returns how many bytes the source still gives, if it tells.
func (r *contextReader) remaining() (n int64, known bool) {
	switch s := r.r.(type) {
	case interface{ Len() int }:
		return int64(s.Len()), true
	case *os.File:
		if info, err := s.Stat(); err != nil || !info.Mode().IsRegular() { // devices can be sought, but have no end
			return 0, false
		}
	}
	s, ok := r.r.(io.Seeker)
	if !ok {
		return 0, false
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false
	}
	end, err := s.Seek(0, io.SeekEnd)
	if _, back := s.Seek(at, io.SeekStart); back != nil {
		r.r = failed{back} // what it gives now begins who knows where
		return 0, false
	}
	return max(0, end-at), err == nil
}

// failed is a source that can't be read any more.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// contextWriter ends a stream with its context, at the next write to the destination.
type contextWriter struct {
	ctx   context.Context
	w     io.Writer
	count func(bytes int)
}

func (w *contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.w.Write(p)
	if w.count != nil {
		w.count(n)
	}
	return n, err
}
