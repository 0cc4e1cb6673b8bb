package compress

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/cores"
)

// compressor reads the compressed form of a stream. An encoder is a writer, so each Read feeds it
// from the source until it has produced something.
type compressor struct {
	t       *Transformer
	src     checked.Reader
	encoder encoder // nil before the first byte and after the last one
	onTwo   bool    // the encoder uses two goroutines
	cleanup runtime.Cleanup
	out     *compressed
	chunk   []byte
	total   int64
	err     error // the stream's first error, returned once out is empty
}

// compressed holds what an encoder has produced and nobody has read yet. The encoder of Zstd may
// write to it from another goroutine.
type compressed struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *compressed) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

// Read returns 0 if there is nothing yet.
func (c *compressed) Read(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.buf.Read(p) // the error means that buf is empty
	return n
}

func (r *compressor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.out == nil {
		r.err = r.start()
	}
	for {
		if n := r.out.Read(p); n > 0 {
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
		if r.err = r.feed(); r.err != nil {
			r.stop()
		}
	}
}

// start takes an encoder. If a core is free, it takes one on two goroutines, which compresses one
// block while the next is gathered. That encoder keeps the second goroutine to the end.
func (r *compressor) start() error {
	r.out, r.chunk = &compressed{}, make([]byte, chunkSize)
	goroutines := 1
	if r.t.usesTwo && cores.Take(r.t.Parallelism, min(2, cores.Most(r.t.Parallelism))-1) == 1 {
		goroutines, r.onTwo = 2, true
		r.cleanup = runtime.AddCleanup(r, cores.Give, 1) // if the stream is dropped half-way
	}
	if pooled, ok := r.t.encoders[goroutines-1].Get().(encoder); ok {
		pooled.Reset(r.out)
		r.encoder = pooled
		return nil
	}
	var err error
	if r.encoder, err = r.t.encoder(r.out, goroutines); err != nil {
		return fmt.Errorf("compress: %s: %w", r.t.format, err)
	}
	return nil
}

// stop returns the encoder to its pool at the stream's end. After a failure it drops the encoder
// and its output.
func (r *compressor) stop() {
	pool := &r.t.encoders[0]
	if r.onTwo {
		pool = &r.t.encoders[1]
		r.cleanup.Stop()
		cores.Give(1)
		r.onTwo = false
	}
	if r.err == io.EOF {
		r.encoder.Reset(io.Discard)
		pool.Put(r.encoder)
	} else {
		r.out = &compressed{}
	}
	r.encoder = nil
	clear(r.chunk) // it is plaintext
	runtime.KeepAlive(r)
}

// feed reads and compresses one chunk. From a long stream it takes one block for each free core
// instead.
func (r *compressor) feed() error {
	block := r.t.block
	if block == 0 || r.total < parallelFrom {
		return r.feedChunk()
	}
	others := cores.Take(r.t.Parallelism, cores.Most(r.t.Parallelism)-1)
	defer cores.Give(others)
	if others == 0 {
		return r.feedChunk()
	}
	size := (1 + others) * block
	buffer, _ := r.t.blocks.Get().(*[]byte)
	if buffer == nil || len(*buffer) < size {
		buffer = new(make([]byte, size))
	}
	want := size - int(r.total%int64(block)) // up to the end of a whole block
	n, err := r.src.ReadFull((*buffer)[:want])
	err = r.compress((*buffer)[:n], err)
	clear((*buffer)[:size]) // it is plaintext
	r.t.blocks.Put(buffer)
	return err
}

func (r *compressor) feedChunk() error {
	n, err := r.src.Read(r.chunk)
	return r.compress(r.chunk[:n], err)
}

// compress compresses b, which was read together with readErr, and returns readErr if nothing else
// fails.
func (r *compressor) compress(b []byte, readErr error) error {
	if readErr != nil && readErr != io.EOF {
		return readErr
	}
	if r.total += int64(len(b)); r.total > r.t.maxSize {
		return fmt.Errorf("%w, and as much would be refused on the way out", tooLarge(r.t.maxSize))
	}
	if _, err := checked.Write(r.encoder, b); err != nil {
		return fmt.Errorf("compress: %s: %w", r.t.format, err)
	}
	if readErr == io.EOF {
		if err := r.encoder.Close(); err != nil {
			return fmt.Errorf("compress: %s: %w", r.t.format, err)
		}
	}
	return readErr
}
