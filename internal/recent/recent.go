// Package recent caches the parts of an object that were read last, so that several small reads of
// one part open it only once. Packages frame and compress use it for random access, where a part is
// a frame.
package recent

import (
	"io"
	"sync"
)

// Size is the most parts that are kept.
const Size = 4

// Parts keeps parts by their offset in the object. The zero Parts is empty and ready to use. It is
// safe for concurrent use.
type Parts struct {
	mu   sync.Mutex
	kept [Size]part // last used first
}

type part struct {
	off   int64
	bytes []byte
}

// Copy copies to p the bytes from off to the end of the kept part that contains off. It returns how
// many it copied, which is 0 if no kept part contains off.
func (r *Parts) Copy(p []byte, off int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, k := range r.kept {
		if off < k.off || off >= k.off+int64(len(k.bytes)) {
			continue
		}
		copy(r.kept[1:i+1], r.kept[:i])
		r.kept[0] = k
		return copy(p, k.bytes[off-k.off:])
	}
	return 0
}

// Keep keeps a part that begins at off, and drops the least recently used part. The bytes must not
// change any more.
func (r *Parts) Keep(off int64, bytes []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.kept[1:], r.kept[:])
	r.kept[0] = part{off, bytes}
}

// ReadAt fills p with the bytes that begin at off in an object of size bytes, as an [io.ReaderAt]
// does. It calls read for each part that p touches. read copies to p the bytes from off to the end
// of the part that contains off.
func ReadAt(p []byte, off, size int64, read func(p []byte, off int64) (int, error)) (n int, err error) {
	for n < len(p) && off < size {
		m, err := read(p[n:], off)
		n += m
		off += int64(m)
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
