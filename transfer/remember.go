package transfer

import (
	"hash/maphash"
	"io"
)

// Remember returns content to be sent to a service, and a function that reports whether what is
// stored is what was sent, all of it. A service may carry out a request and lose its answer. A
// client then sends it again, and the service refuses the second request because of what the first
// one stored. Remember keeps a hash of content, to tell that from another's object. The function
// returns false if content was not read to its end, or if what is stored can't be read.
func Remember(content io.Reader) (sent io.Reader, isSent func(open func() (io.ReadCloser, error)) bool) {
	r := &remembered{content: content}
	return r, r.isSent
}

// remembered is content with a hash of what was read of it.
type remembered struct {
	content io.Reader

	sum   maphash.Hash
	n     int64
	ended bool
}

func (r *remembered) Read(p []byte) (int, error) {
	n, err := r.content.Read(p)
	// Whoever reads from this refuses an impossible count. Writing to a hash never fails.
	_, _ = r.sum.Write(p[:max(0, min(n, len(p)))])
	r.n += int64(n)
	r.ended = r.ended || err == io.EOF
	return n, err
}

func (r *remembered) isSent(open func() (io.ReadCloser, error)) bool {
	if !r.ended {
		return false
	}
	stored, err := open()
	if err != nil {
		return false
	}
	defer stored.Close()
	var sum maphash.Hash
	sum.SetSeed(r.sum.Seed())
	n, err := io.Copy(&sum, stored)
	return err == nil && n == r.n && sum.Sum64() == r.sum.Sum64()
}
