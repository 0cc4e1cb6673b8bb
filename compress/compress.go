// Package compress has the compression stages of the storage pipeline: zstd, zstd-seekable, gzip and s2, as pull streams.
//
// The format zstd-seekable is zstd in frames of 256 KiB, with a table of them at the end. OpenSeekable reads ranges of it.
//
// A stage stands before encryption on the way in and after decryption on the way out, since ciphertext does not compress.
// It takes several cores for a long stream (Transformer.Parallelism), with no goroutine that needs the stream to be read on or closed.
// It holds a window of memory whatever the stream's size; only zstd-seekable gathers its table meanwhile, 12 bytes for each 256 KiB,
// and as much again where the table grows or is read: 100 MB for a stream of 1 TiB. Compressed sizes tell something of the content:
// where an attacker can mix text of their own with a secret in one object and watch its size, do not compress.
package compress

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

var (
	// ErrTooLarge means that a stream has more bytes before compression than the stage's bound, on the way in or out, or for
	// OpenSeekable that a frame is too large to be decompressed as a whole.
	ErrTooLarge = errors.New("stream exceeds the decompressed size bound")
	// ErrCorrupt means that what stands in place of a compressed stream does not decompress.
	ErrCorrupt = errors.New("corrupt compressed stream")
	// ErrUnknownFormat means that a format is none of Formats.
	ErrUnknownFormat = errors.New("unknown compression format")
)

// The formats.
const (
	Zstd = "zstd" // RFC 8878
	Gzip = "gzip" // RFC 1952
	S2   = "s2"   // klauspost/compress/s2, an extension of Snappy's framing format

	// ZstdSeekable is zstd's seekable format, version 0.1.0 (contrib/seekable_format in zstd's repository): zstd frames of 256 KiB
	// before compression each, and a seek table in a skippable frame, so that any zstd decoder takes it for zstd.
	ZstdSeekable = "zstd-seekable"
)

// Formats lists the formats' names.
func Formats() []string { return []string{Zstd, Gzip, S2, ZstdSeekable} }

const (
	// DefaultMaxSize bounds a stream's size before compression: 1 TiB.
	DefaultMaxSize = 1 << 40

	// Priority places compression in a chain: before encryption.
	Priority = 100

	// Every zstd decoder must take windows of 8 MiB (RFC 8878, section 3.1.1.1.2); larger ones are refused.
	zstdWindow = 8 << 20

	chunkSize = 64 << 10
)

// Transformer compresses and decompresses streams of one format. It is safe for concurrent use.
type Transformer struct {
	// Parallelism is the most goroutines at work on one stream, once it has come past 1 MiB: 1 keeps every stream on one core; 0
	// takes the cores that no other stream has taken, at most MaxDefaultParallelism. It is set before the first stream.
	//
	// Zstd compresses on two at most, from the first block on and whatever other streams have, ZstdSeekable with 256 KiB before compression for each, S2 with 1 MiB. S2 is decompressed on
	// several, too, where what Reverse returns is written by its WriteTo, as io.Copy does, with 9 MiB for each; the others on one.
	Parallelism int

	format   string
	maxSize  int64
	block    int // bytes that the encoder compresses on a core of its own where it is written several times as many; 0 if it does not
	encoder  func(dst io.Writer) (resettable, error)
	decoder  func(src io.Reader) (io.Reader, error)
	decodeTo func(dst io.Writer, src io.Reader, parallelism int) error // leaves nothing running; nil if the decoder has one core alone
	end      func(tail []byte, size int64) error                       // says whether a stream of size bytes may end with tail; nil if any may
	encoders sync.Pool                                                 // of resettable
	blocks   sync.Pool                                                 // of *[]byte, for several
}

type resettable interface {
	io.WriteCloser
	Reset(io.Writer)
}

// New returns the stage of a format. It refuses streams of more than maxSize bytes before compression, both when they are
// compressed and when they are decompressed; 0 means DefaultMaxSize. With ZstdSeekable the bound is at most 32 TiB, since a seek
// table has at most 0x8000000 frames. The error holds ErrUnknownFormat.
func New(format string, maxSize int64) (*Transformer, error) {
	if maxSize <= 0 {
		maxSize = DefaultMaxSize
	}
	s := &Transformer{format: format, maxSize: maxSize}
	switch format {
	case Zstd:
		s.encoder = func(dst io.Writer) (resettable, error) {
			return zstd.NewWriter(dst, zstd.WithEncoderConcurrency(min(s.most(), 2)), zstd.WithWindowSize(zstdWindow/2), zstd.WithZeroFrames(true))
		}
		s.decoder = newZstdReader
	case ZstdSeekable:
		s.maxSize = min(maxSize, maxSeekableSize)
		s.encoder, s.block = newSeekableWriter, seekableBlock
		s.decoder = newZstdReader
		s.end = func(tail []byte, size int64) error {
			_, err := parseSeekFooter(tail, size)
			return err
		}
	case Gzip:
		s.encoder = func(dst io.Writer) (resettable, error) { return gzip.NewWriter(dst), nil }
		s.decoder = func(src io.Reader) (io.Reader, error) { return gzip.NewReader(src) }
	case S2:
		s.encoder, s.block = newS2Writer, s2Block
		s.decoder = func(src io.Reader) (io.Reader, error) { return s2.NewReader(src), nil }
		s.decodeTo = func(dst io.Writer, src io.Reader, parallelism int) error {
			_, err := s2.NewReader(src).DecodeConcurrent(dst, parallelism)
			return err
		}
	default:
		return nil, fmt.Errorf("%w: %q; known are %v", ErrUnknownFormat, format, Formats())
	}
	return s, nil
}

// newZstdReader returns a decoder on one core: one on several is slower, at any rate on two.
func newZstdReader(src io.Reader) (io.Reader, error) {
	return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
}

// Name returns the format's name.
func (s *Transformer) Name() string { return s.format }

// MaxSize returns the stage's bound in bytes.
func (s *Transformer) MaxSize() int64 { return s.maxSize }

// Priority returns the stage's place in a chain.
func (s *Transformer) Priority() int { return Priority }

// Transform returns the compressed form of input. The options are not used. Reading fails with ErrTooLarge over the bound.
func (s *Transformer) Transform(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	r := &compressor{stage: s, ctx: ctx, src: input, out: &compressed{}, chunk: make([]byte, chunkSize)}
	if pooled, ok := s.encoders.Get().(resettable); ok {
		pooled.Reset(r.out)
		r.encoder = pooled
		return r, nil
	}
	encoder, err := s.encoder(r.out)
	if err != nil {
		return nil, fmt.Errorf("compress: %s: %w", s.format, err)
	}
	r.encoder = encoder
	return r, nil
}

// Reverse returns the decompressed form of input. The options are not used. It reads input to its end, so that a stage
// below it has verified all of its own data when this one returns io.EOF. Reading fails with ErrTooLarge over the bound,
// ErrCorrupt, or input's own error.
//
// Of ZstdSeekable, the frames are decompressed as those of Zstd are, and verified by their own checksums where they have them.
// The stream must end with the footer of a seek table, so that one which is cut between two frames is refused; the entries of the
// table are not looked at, and a change in them makes no difference.
func (s *Transformer) Reverse(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	return &decompressor{stage: s, ctx: ctx, src: &watched{r: input}}, nil
}

// compressor turns an encoder, which is written to, into a reader: it feeds the encoder until there is something to read.
type compressor struct {
	stage   *Transformer
	ctx     context.Context
	src     io.Reader
	encoder resettable
	out     *compressed
	chunk   []byte
	total   int64
	err     error // sticky; given once out is empty
}

// compressed is what an encoder made and nobody has read. An encoder of Zstd adds to it from a goroutine.
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
	n, _ := c.buf.Read(p) // its error says that it is empty
	return n
}

func (r *compressor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if n := r.out.Read(p); n > 0 {
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.feed()
		if r.err != nil && r.err != io.EOF {
			r.out = &compressed{} // what a failed stream compressed to is of no use
		}
	}
}

// feed compresses what it reads: a chunk or, of a long stream, a block for each core.
func (r *compressor) feed() error {
	blocks := 1
	if r.stage.block > 0 && r.total >= parallelFrom {
		blocks = r.stage.takeCores()
		defer giveCores(blocks)
	}
	if blocks == 1 {
		n, err := r.src.Read(r.chunk)
		return r.compress(r.chunk[:n], err)
	}
	size := blocks * r.stage.block
	wide, _ := r.stage.blocks.Get().(*[]byte)
	if wide == nil || len(*wide) < size {
		wide = new(make([]byte, size))
	}
	defer func() {
		clear(*wide) // it is plaintext
		r.stage.blocks.Put(wide)
	}()
	n, err := r.gather((*wide)[:size-int(r.total%int64(r.stage.block))]) // then the encoder has whole blocks
	return r.compress((*wide)[:n], err)
}

// gather fills b, or ends with an error.
func (r *compressor) gather(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err := r.ctx.Err(); err != nil {
			return n, err
		}
		var m int
		m, err = r.src.Read(b[n:])
		n += m
	}
	return n, err
}

func (r *compressor) compress(b []byte, readErr error) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if r.total += int64(len(b)); r.total > r.stage.maxSize {
		return fmt.Errorf("%w: over %d bytes, and as much would be refused on the way out", ErrTooLarge, r.stage.maxSize)
	}
	if _, err := r.encoder.Write(b); err != nil {
		return fmt.Errorf("compress: %s: %w", r.stage.format, err)
	}
	if readErr == io.EOF {
		if err := r.encoder.Close(); err != nil {
			return fmt.Errorf("compress: %s: %w", r.stage.format, err)
		}
		r.encoder.Reset(io.Discard)
		r.stage.encoders.Put(r.encoder)
		r.encoder = nil
	}
	return readErr
}

// watched remembers how its reader ended, to tell the input's own errors from the decoder's, and with what.
type watched struct {
	r    io.Reader
	err  error
	size int64
	tail []byte // the last bytes, up to seekFooterSize
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil {
		w.err = err
	}
	w.size += int64(n)
	w.tail = append(w.tail, p[max(0, n-seekFooterSize):n]...)
	w.tail = append(w.tail[:0], w.tail[max(0, len(w.tail)-seekFooterSize):]...)
	return n, err
}

type decompressor struct {
	stage   *Transformer
	ctx     context.Context
	src     *watched
	decoder io.Reader // nil before the first Read
	total   int64
	err     error
}

func (r *decompressor) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.read(p)
	within, tooLarge := r.count(n)
	r.err = cmp.Or(tooLarge, err)
	return within, r.err
}

// count says how many of n more bytes are within the stage's bound, with ErrTooLarge if not all are.
func (r *decompressor) count(n int) (within int, err error) {
	if r.total += int64(n); r.total > r.stage.maxSize {
		return max(0, n-int(r.total-r.stage.maxSize)), fmt.Errorf("%w: over %d bytes", ErrTooLarge, r.stage.maxSize)
	}
	return n, nil
}

func (r *decompressor) read(p []byte) (int, error) {
	if r.decoder == nil {
		decoder, err := r.stage.decoder(r.src)
		if err != nil {
			return 0, r.blame(err)
		}
		r.decoder = decoder
	}
	n, err := r.decoder.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		return n, r.atEnd()
	}
	return n, r.blame(err)
}

// atEnd returns io.EOF if the stream may end where the decoder is.
func (r *decompressor) atEnd() error {
	var one [1]byte
	switch n, err := io.ReadFull(r.src, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: %s: data follows its end", ErrCorrupt, r.stage.format)
	case err != io.EOF:
		return err
	case r.stage.end != nil:
		if err := r.stage.end(r.src.tail, r.src.size); err != nil {
			return err
		}
	}
	return io.EOF
}

// blame returns the input's own error if there is one, else says that the stream is corrupt.
func (r *decompressor) blame(err error) error {
	if r.src.err != nil && r.src.err != io.EOF {
		return r.src.err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, r.stage.format, err)
}
