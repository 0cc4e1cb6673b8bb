package frame

import "sync"

// pooledSize is the size of the buffers that streams hand on to one another: that of frames of 64 KiB, the length that is
// written by default.
const pooledSize = 64<<10 + FinalOverhead

var buffers = sync.Pool{New: func() any { return new([pooledSize]byte) }}

// takeBuffer returns a buffer of n bytes.
func takeBuffer(n int) []byte {
	if n != pooledSize {
		return make([]byte, n)
	}
	return buffers.Get().(*[pooledSize]byte)[:]
}

// dropBuffer hands a buffer on, and forgets it. Its first bytes, as many as there may be plaintext in, are cleared.
func dropBuffer(b *[]byte, plaintext int) {
	if len(*b) == pooledSize {
		clear((*b)[:plaintext])
		buffers.Put((*[pooledSize]byte)(*b))
	}
	*b = nil
}
