// Package recent keeps the parts of a whole that were used last, so that small reads in a row, or a few of them side by side, have
// each part opened once. It stands below the random access of packages frame and compress, whose parts are frames.
package recent

import "sync"

// Size is the number of parts that are kept.
const Size = 4

// Parts keeps parts by their place in the whole. The zero Parts is empty. It is safe for concurrent use.
type Parts struct {
	mu   sync.Mutex
	kept [Size]part // those used last come first
}

type part struct {
	off   int64
	bytes []byte
}

// Copy copies to p what a part that is kept has from off, and returns how much that is: 0 if none has it.
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

// Keep keeps a part that begins at off, in the place of the one not used for longest. The bytes must not change any more.
func (r *Parts) Keep(off int64, bytes []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.kept[1:], r.kept[:])
	r.kept[0] = part{off, bytes}
}
