package transfer

import (
	"hash/maphash"
	"io"
)

// Sent is the content of an object that is sent to a service, which may carry out a request and
// lose its answer. A client then sends it again, and the service refuses the second request because
// of what the first one stored. Sent remembers a hash of Source, to tell that from another's object.
type Sent struct {
	Source io.Reader

	sum   maphash.Hash
	n     int64
	ended bool
}

// Read reads from Source.
func (s *Sent) Read(p []byte) (int, error) {
	n, err := s.Source.Read(p)
	// Whoever reads from this refuses an impossible count. Writing to a hash never fails.
	_, _ = s.sum.Write(p[:max(0, min(n, len(p)))])
	s.n += int64(n)
	s.ended = s.ended || err == io.EOF
	return n, err
}

// Is reports whether what is stored is what was sent, all of it. It is false if Source was not read
// to its end, or if what is stored can't be read.
func (s *Sent) Is(open func() (io.ReadCloser, error)) bool {
	if !s.ended {
		return false
	}
	stored, err := open()
	if err != nil {
		return false
	}
	defer stored.Close()
	var sum maphash.Hash
	sum.SetSeed(s.sum.Seed())
	n, err := io.Copy(&sum, stored)
	return err == nil && n == s.n && sum.Sum64() == s.sum.Sum64()
}
