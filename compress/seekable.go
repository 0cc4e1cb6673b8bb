package compress

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// The parts of the seekable format. Unless noted otherwise, the source is its specification,
// version 0.1.0: contrib/seekable_format/zstd_seekable_compression_format.md in zstd's repository.
// All numbers are little-endian.
const (
	// seekTableMagic is Skippable_Magic_Number: the seek table is a skippable frame (RFC 8878,
	// section 3.1.2).
	seekTableMagic = 0x184D2A5E
	// seekableMagic is Seekable_Magic_Number, the last 4 bytes of a stream.
	seekableMagic = 0x8F92EAB1

	seekHeaderSize   = 4 + 4     // Skippable_Magic_Number, Frame_Size
	seekEntrySize    = 4 + 4     // Compressed_Size, Decompressed_Size
	seekChecksumSize = 4         // the low 32 bits of XXH64 of the decompressed frame
	seekFooterSize   = 4 + 1 + 4 // Number_Of_Frames, Seek_Table_Descriptor, Seekable_Magic_Number

	seekChecksumFlag = 1 << 7    // Checksum_Flag of Seek_Table_Descriptor
	seekReservedBits = 0b1111100 // Reserved_Bits of the descriptor, which must be 0; its other two bits mean nothing

	// maxSeekFrames is ZSTD_SEEKABLE_MAXFRAMES of contrib/seekable_format/zstd_seekable.h.
	maxSeekFrames = 0x8000000

	// minFrameSize is the size in bytes of the shortest frame: an empty skippable one (RFC 8878,
	// section 3.1.2).
	minFrameSize = 8
)

const (
	// seekableBlock is the size in bytes, before compression, of each frame that a writer makes,
	// except for a shorter last one: 256 KiB. Smaller frames compress worse, since none refers to
	// another. Compared with Zstd, 64 MiB of Go sources become 20 % larger in frames of 64 KiB,
	// 10 % in frames of 256 KiB, and 3.5 % in frames of 1 MiB. Larger frames make small reads cost
	// more, since each fetches and decompresses a whole frame.
	seekableBlock = 256 << 10

	// maxSeekableSize is how many bytes a table of frames of seekableBlock bytes can describe: 32
	// TiB.
	maxSeekableSize = maxSeekFrames * seekableBlock

	// tableKept is the size in bytes of the largest table buffer that a pooled writer keeps.
	tableKept = 64 << 10
)

// seekableWriter is the encoder of format ZstdSeekable.
type seekableWriter struct {
	dst     io.Writer
	block   []byte // bytes before compression that do not fill a frame yet
	entries []byte
	frames  uint32 // at most maxSeekFrames, since New bounds streams
}

// frameEncoder compresses one frame at a time.
type frameEncoder struct {
	*zstd.Encoder
	stored   []byte // the last frame
	checksum uint32 // of the block before compression
}

var frameEncoders = sync.Pool{New: func() any {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(seekableBlock))
	if err != nil {
		panic(err) // the options are constants
	}
	return &frameEncoder{Encoder: encoder}
}}

func (e *frameEncoder) encode(block []byte) {
	e.stored = e.EncodeAll(block, e.stored[:0])
	e.checksum = uint32(xxhash.Sum64(block))
}

func newSeekableWriter(dst io.Writer, _ int) (encoder, error) {
	return &seekableWriter{dst: dst, block: make([]byte, 0, seekableBlock)}, nil
}

// Reset makes w write a new stream to dst.
func (w *seekableWriter) Reset(dst io.Writer) {
	w.dst, w.block, w.entries, w.frames = dst, w.block[:0], w.entries[:0], 0
	if cap(w.entries) > tableKept {
		w.entries = nil
	}
}

// Write compresses the whole blocks of p side by side.
func (w *seekableWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if whole := (len(p) - n) / seekableBlock; len(w.block) == 0 && whole > 0 {
			if err := w.flush(p[n : n+whole*seekableBlock]); err != nil {
				return n, err
			}
			n += whole * seekableBlock
			continue
		}
		m := min(len(p)-n, seekableBlock-len(w.block))
		w.block = append(w.block, p[n:n+m]...)
		n += m
		if len(w.block) == seekableBlock {
			if err := w.flush(w.block); err != nil {
				return n, err
			}
			w.block = w.block[:0]
		}
	}
	return n, nil
}

// flush writes blocks as frames and adds them to the table.
func (w *seekableWriter) flush(blocks []byte) error {
	var encoders []*frameEncoder
	var others sync.WaitGroup
	for block := range slices.Chunk(blocks, seekableBlock) {
		e := frameEncoders.Get().(*frameEncoder)
		defer frameEncoders.Put(e)
		encoders = append(encoders, e)
		if len(encoders)*seekableBlock < len(blocks) {
			others.Go(func() { e.encode(block) })
		} else {
			e.encode(block)
		}
	}
	others.Wait()
	for i, e := range encoders {
		size := min(len(blocks)-i*seekableBlock, seekableBlock)
		w.entries = binary.LittleEndian.AppendUint32(w.entries, uint32(len(e.stored)))
		w.entries = binary.LittleEndian.AppendUint32(w.entries, uint32(size))
		w.entries = binary.LittleEndian.AppendUint32(w.entries, e.checksum)
		w.frames++
		if _, err := w.dst.Write(e.stored); err != nil {
			return err
		}
	}
	return nil
}

// Close writes what is left, and the table. An empty stream is a table without frames.
func (w *seekableWriter) Close() error {
	if len(w.block) > 0 {
		if err := w.flush(w.block); err != nil {
			return err
		}
	}
	header := binary.LittleEndian.AppendUint32(nil, seekTableMagic)
	header = binary.LittleEndian.AppendUint32(header, uint32(len(w.entries)+seekFooterSize))
	footer := binary.LittleEndian.AppendUint32(nil, w.frames)
	footer = append(footer, seekChecksumFlag)
	footer = binary.LittleEndian.AppendUint32(footer, seekableMagic)
	for _, part := range [][]byte{header, w.entries, footer} {
		if _, err := w.dst.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// seekFooter is the content of a stream's last bytes.
type seekFooter struct {
	frames    int64
	checksums bool
}

// parseSeekFooter reads the footer at the end of tail, which is the end of a stream of size bytes.
// It checks that the table fits in the stream. The error holds ErrCorrupt.
func parseSeekFooter(tail []byte, size int64) (seekFooter, error) {
	if len(tail) < seekFooterSize {
		return seekFooter{}, corruptTable("%d bytes are too few for one", size)
	}
	b := tail[len(tail)-seekFooterSize:]
	if magic := binary.LittleEndian.Uint32(b[5:]); magic != seekableMagic {
		return seekFooter{}, corruptTable("the stream ends with %#08x, not with %#08x", magic, uint32(seekableMagic))
	}
	if b[4]&seekReservedBits != 0 {
		return seekFooter{}, corruptTable("descriptor %#02x has reserved bits", b[4])
	}
	f := seekFooter{frames: int64(binary.LittleEndian.Uint32(b)), checksums: b[4]&seekChecksumFlag != 0}
	if f.frames > maxSeekFrames {
		return seekFooter{}, corruptTable("%d frames are over %d", f.frames, maxSeekFrames)
	}
	if f.frames*minFrameSize > size-f.tableSize() {
		return seekFooter{}, corruptTable("%d frames and their table do not fit in %d bytes", f.frames, size)
	}
	return f, nil
}

func (f seekFooter) entrySize() int64 {
	if f.checksums {
		return seekEntrySize + seekChecksumSize
	}
	return seekEntrySize
}

// tableSize returns the size in bytes of the skippable frame that holds the table.
func (f seekFooter) tableSize() int64 {
	return seekHeaderSize + f.frames*f.entrySize() + seekFooterSize
}

func corruptTable(format string, args ...any) error {
	return fmt.Errorf("%w: %s: seek table: %s", ErrCorrupt, ZstdSeekable, fmt.Sprintf(format, args...))
}
