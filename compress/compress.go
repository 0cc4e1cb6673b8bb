// Package compress has the compressing transformers of the storage pipeline: zstd, zstd-seekable,
// gzip and s2, as pull streams.
//
// The format zstd-seekable is zstd in frames of 256 KiB, with a table of them at the end.
// [OpenSeekable] reads ranges of it.
//
// Compression comes before encryption on the way in and after decryption on the way out, since
// ciphertext does not compress. A long stream takes several cores (see [Transformer.Parallelism]).
// It leaves no goroutine behind, and needs no closing, even when it is dropped half-way.
//
// A stream holds a window of memory whatever its size. Only zstd-seekable gathers its table
// meanwhile, 12 bytes for each 256 KiB, and as much again where the table grows or is read: 100 MB
// for a stream of 1 TiB.
//
// Compressed sizes tell something of the content. Where an attacker can mix text of their own with
// a secret in one object, and watch its size, do not compress.
package compress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/cores"
)

var (
	// ErrTooLarge means that a stream has more bytes before compression than the transformer's
	// bound, on the way in or out. From [OpenSeekable], it can also mean that a frame is too large
	// to be decompressed as a whole.
	ErrTooLarge = errors.New("stream exceeds the decompressed size bound")
	// ErrCorrupt means that what stands in place of a compressed stream does not decompress. Where
	// it was cut short, the error holds [io.ErrUnexpectedEOF], too. A source's own failure is
	// never ErrCorrupt.
	ErrCorrupt = errors.New("corrupt compressed stream")
	// ErrUnknownFormat means that a format is none of [Formats].
	ErrUnknownFormat = errors.New("unknown compression format")
)

// The formats.
const (
	Zstd = "zstd" // RFC 8878
	Gzip = "gzip" // RFC 1952
	S2   = "s2"   // klauspost/compress/s2, an extension of Snappy's framing format

	// ZstdSeekable is zstd's seekable format, version 0.1.0 (contrib/seekable_format in zstd's
	// repository): zstd frames of 256 KiB before compression each, and a seek table in a skippable
	// frame, so that any zstd decoder takes it for zstd.
	ZstdSeekable = "zstd-seekable"
)

// Formats lists the formats' names.
func Formats() []string { return []string{Zstd, Gzip, S2, ZstdSeekable} }

const (
	// DefaultMaxSize bounds a stream's size before compression: 1 TiB.
	DefaultMaxSize = 1 << 40

	// Priority places compression in a chain: before encryption.
	Priority = 100

	// zstdWindow is the largest window that is taken, in bytes. It is the one that RFC 8878,
	// section 3.1.1.1.2, asks every zstd decoder to take.
	zstdWindow = 8 << 20

	// parallelFrom is how many bytes of a stream are compressed on one goroutine before it takes
	// several.
	parallelFrom = 1 << 20

	// MaxDefaultParallelism bounds what a [Transformer.Parallelism] of 0 means.
	MaxDefaultParallelism = cores.MaxDefault

	chunkSize = 64 << 10
)

// Transformer compresses and decompresses streams of one format. It is safe for concurrent use.
type Transformer struct {
	// Parallelism is the most goroutines at work on one stream. The caller's is one of them, so 1
	// means that no other is started. 0 means one for each core, at most [MaxDefaultParallelism],
	// as far as other streams leave cores free: all streams of the process share one budget, with
	// those that encrypt. It must be set before the first stream.
	//
	// [ZstdSeekable] and [S2] compress on several goroutines after 1 MiB, with 256 KiB and 1 MiB
	// before compression in memory for each. [Zstd] compresses on two, from the first block to the
	// last. S2 is decompressed on several where what Reverse returns is written by its WriteTo, as
	// [io.Copy] does, with 9 MiB for each. Everything else stays on the caller's.
	Parallelism int

	format  string
	maxSize int64

	encoder  func(dst io.Writer, goroutines int) (encoder, error)
	encoders [2]sync.Pool // of encoder: on one goroutine, and on two
	twofold  bool         // an encoder can be on two

	// block is how many bytes an encoder compresses on one goroutine, while it compresses those
	// behind them on others. It is 0 if the format has no such encoder.
	block  int
	blocks sync.Pool // of *[]byte, for several blocks

	decoder func(src io.Reader) (io.Reader, error)

	// decodeTo decompresses on several goroutines, none of which outlives it. It is nil if the
	// format has no such decoder.
	decodeTo func(dst io.Writer, src io.Reader, goroutines int) error

	// end tells whether a stream of size bytes may end with tail. It is nil if any stream may.
	end func(tail []byte, size int64) error
}

type encoder interface {
	io.WriteCloser
	Reset(io.Writer)
}

// New returns the transformer of a format. It refuses streams of more than maxSize bytes before
// compression, both when they are compressed and when they are decompressed; 0 means
// [DefaultMaxSize]. The bound of [ZstdSeekable] is at most 32 TiB, since a seek table has at most
// 0x8000000 frames. The error holds [ErrUnknownFormat].
func New(format string, maxSize int64) (*Transformer, error) {
	if maxSize <= 0 {
		maxSize = DefaultMaxSize
	}
	t := &Transformer{format: format, maxSize: maxSize}
	switch format {
	case Zstd:
		t.encoder, t.twofold = newZstdWriter, true
		t.decoder = newZstdReader
	case ZstdSeekable:
		t.maxSize = min(maxSize, maxSeekableSize)
		t.encoder, t.block = newSeekableWriter, seekableBlock
		t.decoder = newZstdReader
		t.end = func(tail []byte, size int64) error {
			_, err := parseSeekFooter(tail, size)
			return err
		}
	case Gzip:
		t.encoder = func(dst io.Writer, _ int) (encoder, error) { return gzip.NewWriter(dst), nil }
		t.decoder = func(src io.Reader) (io.Reader, error) { return gzip.NewReader(src) }
	case S2:
		t.encoder, t.block = newS2Writer, s2Block
		t.decoder = func(src io.Reader) (io.Reader, error) { return s2.NewReader(src), nil }
		t.decodeTo = func(dst io.Writer, src io.Reader, goroutines int) error {
			_, err := s2.NewReader(src).DecodeConcurrent(dst, goroutines)
			return err
		}
	default:
		return nil, fmt.Errorf("%w: %q; known are %v", ErrUnknownFormat, format, Formats())
	}
	return t, nil
}

func newZstdWriter(dst io.Writer, goroutines int) (encoder, error) {
	return zstd.NewWriter(dst, zstd.WithEncoderConcurrency(goroutines), zstd.WithWindowSize(zstdWindow/2), zstd.WithZeroFrames(true))
}

// newZstdReader returns a decoder on one goroutine. One on several is slower, at any rate on two
// cores.
func newZstdReader(src io.Reader) (io.Reader, error) {
	return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
}

// Name returns the format's name.
func (t *Transformer) Name() string { return t.format }

// MaxSize returns the transformer's bound in bytes.
func (t *Transformer) MaxSize() int64 { return t.maxSize }

// Priority returns the transformer's place in a chain, the constant [Priority].
func (t *Transformer) Priority() int { return Priority }

// Transform returns the compressed form of input. The options are not used. Reading fails with
// [ErrTooLarge] over the bound, with input's own error, or with ctx's.
func (t *Transformer) Transform(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	return &compressor{t: t, src: checked.Reader{Context: ctx, Source: input}}, nil
}

// Reverse returns the decompressed form of input, which also implements [io.WriterTo]. The options
// are not used. Reading fails with [ErrTooLarge] over the bound, [ErrCorrupt], input's own error,
// or ctx's. It takes no more memory than a window, whatever input claims: 8 MiB for [Zstd] and
// [ZstdSeekable], 32 KiB for [Gzip], and a block of 4 MiB for [S2].
//
// It reads input to its end, so that a transformer below this one has verified all of its own data
// when Read returns io.EOF. An input that fails once is not asked again, and never passes for one
// that has ended.
//
// The frames of [ZstdSeekable] are decompressed as those of [Zstd] are, and verified by their own
// checksums where they have them. The stream must end with the footer of a seek table, so that one
// which is cut between two frames is refused. The entries of the table are not looked at, and a
// change in them makes no difference.
func (t *Transformer) Reverse(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	return &decompressor{t: t, src: watched{reader: checked.Reader{Context: ctx, Source: input}}}, nil
}
