// Package recent keeps the parts of a whole that were read last, so that small reads of the same
// part open it once. Packages frame and compress use it for random access, where the parts are
// frames.
package recent

import "sync"

// Size is the most parts that are kept.
const Size = 4

// Parts keeps parts by their place in the whole. The zero Parts is empty and ready to use. It is
// safe for concurrent use.
type Parts struct {
	mu   sync.Mutex
	kept [Size]part // the last used first
}

type part struct {
	off   int64
	bytes []byte
}

// Copy copies to p the bytes from off on that one of the kept parts has. It returns their number,
// which is 0 if no part has any.
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

// Keep keeps a part that begins at off, and drops the one that was not used for longest. The bytes
// must not change any more.
func (r *Parts) Keep(off int64, bytes []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.kept[1:], r.kept[:])
	r.kept[0] = part{off, bytes}
}
