package places

import (
	"io"
	"sync/atomic"
)

// Counter counts the bytes that are read through it.
type Counter struct {
	R    io.Reader
	N    atomic.Int64
	Tell func(n int) // if not nil, is called with the number of bytes of each read
}

func (c *Counter) Read(p []byte) (int, error) {
	n, err := c.R.Read(p)
	c.N.Add(int64(n))
	if c.Tell != nil {
		c.Tell(n)
	}
	return n, err
}
