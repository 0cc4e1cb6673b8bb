package frame

import "sync"

// pooledSize is the size of the buffers that streams hand on to one another. It fits frames of
// 64 KiB, the length that is written by default.
const pooledSize = 64<<10 + FinalOverhead

var pooled = sync.Pool{New: func() any { return new([pooledSize]byte) }}

// buffer is a stream's memory.
type buffer struct {
	bytes []byte
	dirty int // how many of its first bytes may have been plaintext
}

// take makes b a buffer of n bytes.
func (b *buffer) take(n int) {
	if n != pooledSize {
		b.bytes = make([]byte, n)
		return
	}
	b.bytes = pooled.Get().(*[pooledSize]byte)[:]
}

// soil notes that the first n bytes may be plaintext.
func (b *buffer) soil(n int) { b.dirty = max(b.dirty, n) }

// drop clears the buffer's plaintext and hands the buffer on.
func (b *buffer) drop() {
	clear(b.bytes[:min(b.dirty, len(b.bytes))])
	if len(b.bytes) == pooledSize {
		pooled.Put((*[pooledSize]byte)(b.bytes))
	}
	*b = buffer{}
}
