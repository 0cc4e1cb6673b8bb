// Package compress implements the compressing transformers of the storage pipeline as pull streams:
// zstd, zstd-seekable, gzip and s2.
//
// The format zstd-seekable is zstd in frames of 256 KiB, with a table of them at the end.
// [Transformer.OpenSeekable] reads ranges of it. No frame refers to another. So it is a tenth
// larger than zstd for Go sources, but several times as large where content is repeated farther
// away than a frame: 7.5 times for 8 versions of a document of 1 MiB.
//
// Data are compressed before encryption and decompressed after decryption, since ciphertext does
// not compress. A long stream uses several cores (see [Transformer.Parallelism]). A stream leaves
// no goroutine behind and needs no Close, even when it is dropped half-way.
//
// A stream holds a window of memory, whatever its size. Only zstd-seekable also holds its table, of
// 12 bytes for each 256 KiB. While the table grows or is read, it takes twice that: 100 MB for a
// stream of 1 TiB.
//
// Compressed sizes reveal something of the content. Do not compress where an attacker can mix text
// of their own with a secret in one object and watch its size.
//
// To add a format, add its name to the constants and to [Formats], and its encoder and decoder to
// [New]. A pikokms.Host and the command take all formats from there.
package compress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"piko.sh/pikokms/internal/checked"
)

var (
	// ErrTooLarge means that a stream has more bytes before compression than the transformer
	// allows, when it is compressed or decompressed.
	ErrTooLarge = errors.New("stream exceeds the decompressed size bound")
	// ErrWindow means that a stream of zstd has a window, or a stream of [ZstdSeekable] a frame,
	// that takes more memory than [Transformer.MaxWindow] allows. The stream may be valid.
	ErrWindow = errors.New("compressed stream needs more memory than is allowed")
	// ErrCorrupt means that the input of decompression is empty, damaged or not of the format. It
	// never means that a limit was exceeded. If the input was cut short, the error also holds
	// [io.ErrUnexpectedEOF]. A failure of the source itself is never ErrCorrupt.
	ErrCorrupt = errors.New("corrupt compressed stream")
	// ErrUnknownFormat means that a format is not one of [Formats].
	ErrUnknownFormat = errors.New("unknown compression format")
)

// The names of the formats.
const (
	Zstd = "zstd" // RFC 8878
	Gzip = "gzip" // RFC 1952
	S2   = "s2"   // klauspost/compress/s2, an extension of Snappy's framing format

	// ZstdSeekable is zstd's seekable format, version 0.1.0 (contrib/seekable_format in zstd's
	// repository). It consists of zstd frames of 256 KiB before compression each, and of a seek
	// table in a skippable frame, so every zstd decoder reads it as zstd.
	ZstdSeekable = "zstd-seekable"
)

// Formats returns the names of all formats.
func Formats() []string { return []string{Zstd, Gzip, S2, ZstdSeekable} }

const (
	// defaultMaxSize is the default bound of a stream's size in bytes before compression: 1 TiB.
	defaultMaxSize = 1 << 40

	// priority is the place of compression in a chain, before encryption.
	priority = 100

	// defaultMaxWindow is the default of [Transformer.MaxWindow] in bytes: 8 MiB. RFC 8878, section
	// 3.1.1.1.2, asks every decoder to accept as much.
	defaultMaxWindow = 8 << 20

	// mostWindow is the largest window that a frame can state (RFC 8878, section 3.1.1.1.2).
	maxStatedWindow = 1<<41 + 7<<38

	// zstdWindow is the window in bytes that writers use: 4 MiB.
	zstdWindow = 4 << 20

	// parallelFrom is how many bytes of a stream are compressed on one goroutine before it uses
	// several.
	parallelFrom = 1 << 20

	chunkSize = 64 << 10
)

// Transformer compresses and decompresses streams of one format. It is safe for concurrent use.
type Transformer struct {
	// Parallelism is the most goroutines that work on one stream, with the caller's among them. 1
	// means that no other goroutine is started. 0 means one for each core, at most 8,
	// as far as other streams leave cores free. All streams of the process that compress or encrypt
	// share these cores. Set Parallelism before the first stream.
	//
	// [ZstdSeekable] and [S2] compress on several goroutines after the first 1 MiB. Each goroutine
	// holds 256 KiB or 1 MiB before compression in memory. [Zstd] compresses on two goroutines from
	// the first block to the last. [S2] decompresses on several, with 9 MiB for each, if the reader
	// that Reverse returns is read by its WriteTo, as [io.Copy] does. Everything else runs on the
	// caller's goroutine.
	Parallelism int

	// MaxWindow is the largest window in bytes that a stream of [Zstd] or [ZstdSeekable] may have
	// to be decompressed: its writer chooses it, and its reader takes as much memory. For random
	// access to [ZstdSeekable] it bounds a frame before compression. 0 means 8 MiB. The programs
	// zstd -19 and above, and zstd --long, choose larger ones, up to 2 GiB. Set MaxWindow before
	// the first stream.
	MaxWindow int

	format  string
	maxSize int64

	encoder  func(dst io.Writer, goroutines int) (encoder, error)
	encoders [2]sync.Pool // encoders on one goroutine, and encoders on two
	usesTwo  bool         // the encoder can use two goroutines

	// block is how many bytes an encoder compresses on one goroutine while others compress the
	// blocks after it. It is 0 if the format's encoder does not work in blocks.
	block  int
	blocks sync.Pool // of *[]byte, each with room for several blocks

	decoder func(src io.Reader, maxWindow int) (io.Reader, error)

	// decodeTo decompresses on several goroutines, none of which outlives the call. It is nil if
	// the format has no such decoder.
	decodeTo func(dst io.Writer, src io.Reader, goroutines int) error

	// end checks that a stream of size bytes may end with tail. It is nil if every end is allowed.
	end func(tail []byte, size int64) error
}

type encoder interface {
	io.WriteCloser
	Reset(io.Writer)
}

// New returns the transformer of a format. It refuses streams of more than maxSize bytes before
// compression, when it compresses and when it decompresses; 0 means 1 TiB. For
// [ZstdSeekable] the bound is at most 32 TiB, since a seek table has at most 0x8000000 frames. The
// error holds [ErrUnknownFormat].
func New(format string, maxSize int64) (*Transformer, error) {
	if maxSize <= 0 {
		maxSize = defaultMaxSize
	}
	t := &Transformer{format: format, maxSize: maxSize}
	switch format {
	case Zstd:
		t.encoder, t.usesTwo = newZstdWriter, true
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
		t.decoder = func(src io.Reader, _ int) (io.Reader, error) { return gzip.NewReader(src) }
	case S2:
		t.encoder, t.block = newS2Writer, s2Block
		t.decoder = func(src io.Reader, _ int) (io.Reader, error) { return s2.NewReader(src), nil }
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
	return zstd.NewWriter(dst, zstd.WithEncoderConcurrency(goroutines), zstd.WithWindowSize(zstdWindow), zstd.WithZeroFrames(true))
}

// newZstdReader returns a decoder on one goroutine. A decoder on two goroutines was slower, at
// least on two cores.
func newZstdReader(src io.Reader, maxWindow int) (io.Reader, error) {
	// MaxMemory would bound the size of the whole stream, which decompressor does instead.
	return zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(min(uint64(maxWindow), maxStatedWindow)), zstd.WithDecoderMaxMemory(math.MaxInt64))
}

// maxWindow returns the bound of windows, with its default.
func (t *Transformer) maxWindow() int {
	if t.MaxWindow <= 0 {
		return defaultMaxWindow
	}
	return max(t.MaxWindow, zstd.MinWindowSize)
}

// Name returns the format's name.
func (t *Transformer) Name() string { return t.format }

// Priority returns the transformer's place in a chain, 100, which is before encryption.
func (t *Transformer) Priority() int { return priority }

// Transform returns the compressed form of input. It ignores the options. Reading fails with
// [ErrTooLarge] over the bound, with input's own error, or with ctx's.
func (t *Transformer) Transform(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	return &compressor{t: t, src: checked.Reader{Context: ctx, Source: input}}, nil
}

// Reverse returns the decompressed form of input, which also implements [io.WriterTo]. It ignores
// the options. Reading fails with [ErrTooLarge] over the bound, [ErrWindow], [ErrCorrupt], input's
// own error, or ctx's. Whatever input claims, decompression takes no more memory than a window:
// MaxWindow for [Zstd] and [ZstdSeekable], 32 KiB for [Gzip], and a block of 4 MiB for [S2].
//
// It reads input to its end before Read returns io.EOF, so that by then the decryption that
// produces input has verified all of its own data. After input has failed once, it is not read
// again, and its failure is never taken for its end.
//
// The frames of [ZstdSeekable] are decompressed like those of [Zstd], and verified by their own
// checksums where they have them. The stream must end with the footer of a seek table, so a stream
// that was cut between two frames is refused. The entries of the table are ignored.
func (t *Transformer) Reverse(ctx context.Context, input io.Reader, _ any) (io.Reader, error) {
	return &decompressor{t: t, src: watched{reader: checked.Reader{Context: ctx, Source: input}}}, nil
}
