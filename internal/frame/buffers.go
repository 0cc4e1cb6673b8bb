package frame

import "sync"

// pooledSize is the size of the buffers that streams share through a pool. It fits frames of
// header.DefaultFrameLength, 64 KiB. Other frame lengths work, but take a buffer of their own.
const pooledSize = 64<<10 + FinalOverhead

var pooled = sync.Pool{New: func() any { return new([pooledSize]byte) }}

// buffer is a stream's memory.
type buffer struct {
	bytes []byte
	dirty int // how many first bytes may be plaintext
}

// take gives b a buffer of n bytes.
func (b *buffer) take(n int) {
	if n != pooledSize {
		b.bytes = make([]byte, n)
		return
	}
	b.bytes = pooled.Get().(*[pooledSize]byte)[:]
}

// grow enlarges the buffer up to most bytes, and keeps its content. A frame's size is not
// authenticated before the whole frame is there, so a buffer at most doubles: a message takes
// memory for what arrives of it, not for what its header states.
func (b *buffer) grow(most int) {
	old := *b
	*b = buffer{dirty: old.dirty}
	b.take(len(old.bytes) + min(len(old.bytes), most-len(old.bytes)))
	copy(b.bytes, old.bytes)
	old.drop()
}

// fit makes room for n bytes of a frame that has arrived. It keeps no content.
func (b *buffer) fit(n int) {
	if len(b.bytes) < n {
		b.drop()
		b.take(n)
	}
}

// soil records that the first n bytes may be plaintext.
func (b *buffer) soil(n int) { b.dirty = max(b.dirty, n) }

// drop clears the buffer's plaintext and returns the buffer to its pool.
func (b *buffer) drop() {
	clear(b.bytes[:min(b.dirty, len(b.bytes))])
	if len(b.bytes) == pooledSize {
		pooled.Put((*[pooledSize]byte)(b.bytes))
	}
	*b = buffer{}
}
