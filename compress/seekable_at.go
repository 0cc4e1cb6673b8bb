package compress

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sort"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/recent"
)

// markEvery is the distance in frames between two frames whose positions are kept. Keeping the
// position of every frame would take at least twice the memory of the table.
const markEvery = 64

// emptyChecksum is the checksum of a frame that decompresses to nothing, as a skippable one does.
var emptyChecksum = uint32(xxhash.Sum64(nil))

// seekTable holds the positions of the frames.
type seekTable struct {
	seekFooter
	entries []byte
	marks   []seekMark // of frames 0, markEvery, 2*markEvery and so on
	size    int64      // decompressed
}

// seekMark is where a frame begins, compressed and decompressed.
type seekMark struct{ stored, plain int64 }

// seekFrame is an entry of the table, with its place.
type seekFrame struct {
	seekMark
	storedSize, plainSize int64
	checksum              uint32
}

// parseSeekTable reads a table. b is the whole skippable frame, and dataSize bytes come before it.
// The error holds ErrCorrupt, ErrTooLarge or ErrWindow.
func parseSeekTable(b []byte, f seekFooter, dataSize, maxSize int64, maxFrame int) (*seekTable, error) {
	if magic := binary.LittleEndian.Uint32(b); magic != seekTableMagic {
		return nil, corruptTable("it begins with %#08x, not with %#08x", magic, uint32(seekTableMagic))
	}
	if n := binary.LittleEndian.Uint32(b[4:]); int64(n) != int64(len(b)-seekHeaderSize) {
		return nil, corruptTable("its frame has %d bytes, its entries need %d", n, len(b)-seekHeaderSize)
	}
	t := &seekTable{
		seekFooter: f,
		entries:    b[seekHeaderSize : len(b)-seekFooterSize],
		marks:      make([]seekMark, 0, (f.frames+markEvery-1)/markEvery),
	}
	var at seekMark
	for i := range f.frames {
		if i%markEvery == 0 {
			t.marks = append(t.marks, at)
		}
		frame := t.entry(i, at)
		if frame.plainSize > int64(maxFrame) {
			return nil, windowError(ZstdSeekable, fmt.Sprintf("frame %d", i), uint64(frame.plainSize), maxFrame)
		}
		// A compressed frame may have twice the bound, since a writer that flushes often makes small
		// blocks, which compress badly or grow.
		if frame.plainSize > 0 && frame.storedSize/2 > int64(maxFrame) {
			return nil, windowError(ZstdSeekable, fmt.Sprintf("frame %d, compressed,", i), uint64(frame.storedSize), 2*maxFrame)
		}
		if f.checksums && frame.plainSize == 0 && frame.checksum != emptyChecksum {
			// Reads skip empty frames, so they would silently leave out the content of this one.
			return nil, corruptTable("frame %d is empty, but its checksum is that of something", i)
		}
		at = seekMark{at.stored + frame.storedSize, at.plain + frame.plainSize}
		if at.plain > maxSize {
			return nil, tooLarge(maxSize)
		}
	}
	if at.stored != dataSize {
		return nil, corruptTable("its frames have %d bytes, before it are %d", at.stored, dataSize)
	}
	t.size = at.plain
	return t, nil
}

// entry returns frame i, which begins at the place at.
func (t *seekTable) entry(i int64, at seekMark) seekFrame {
	e := t.entries[i*t.entrySize():]
	f := seekFrame{
		seekMark:   at,
		storedSize: int64(binary.LittleEndian.Uint32(e)),
		plainSize:  int64(binary.LittleEndian.Uint32(e[4:])),
	}
	if t.checksums {
		f.checksum = binary.LittleEndian.Uint32(e[8:])
	}
	return f
}

// find returns the frame that contains the byte at off, which is at least 0 and below t.size.
func (t *seekTable) find(off int64) seekFrame {
	// The search finds the last mark that is not after off. Empty frames can put several marks at
	// one place.
	mark := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].plain > off }) - 1
	i, at := int64(mark)*markEvery, t.marks[mark]
	for {
		f := t.entry(i, at)
		if off < f.plain+f.plainSize {
			return f
		}
		i, at = i+1, seekMark{f.stored + f.storedSize, f.plain + f.plainSize}
	}
}

// seekable reads ranges of a stream of the format ZstdSeekable.
type seekable struct {
	src     io.ReaderAt
	table   *seekTable
	decoder *zstd.Decoder
	stored  sync.Pool    // of *[]byte, for compressed frames
	recent  recent.Parts // decompressed frames
}

// OpenSeekable gives random access to the content of the stream of size bytes in src. The stream
// may be any of the format [ZstdSeekable], whichever program wrote it. OpenSeekable refuses streams
// of more bytes before compression than the transformer's bound. It reads the table at the stream's
// end in two reads. It takes memory in proportion to the table's size, never to what the table
// claims, and first refuses a table that does not fit in size bytes. src must not change
// afterwards.
//
// The reader's ReadAt is safe for concurrent use. It reads and decompresses the frames that a range
// needs, and no others. A frame must decompress to the size in the table, and match its checksum if
// it has one. Otherwise ReadAt returns no byte of it, and an error that holds [ErrCorrupt]. Frames
// that the table calls empty are not looked at. If the stream's writer gave such a frame content,
// [Transformer.Reverse] returns it and ReadAt does not.
//
// The reader needs no Close. It keeps the table, of 8 or 12 bytes for each frame. It also keeps the
// last 4 frames that were decompressed for reads of less than a whole frame: 1 MiB for the frames
// that this package writes, 32 MiB for the largest that it reads by default.
//
// The error holds [ErrTooLarge] if the stream exceeds the bound, and [ErrWindow] if it has a frame
// of more than MaxWindow bytes before compression, or twice as many after it. It holds [ErrCorrupt]
// if the stream does not end with a table, or if the table does not account for each byte before
// it. Otherwise it is src's own.
func (t *Transformer) OpenSeekable(src io.ReaderAt, size int64) (*io.SectionReader, error) {
	tail := make([]byte, seekFooterSize)
	if size < seekHeaderSize+seekFooterSize {
		return nil, corruptTable("%d bytes are too few for one", size)
	}
	if err := readFullAt(src, tail, size-seekFooterSize); err != nil {
		return nil, err
	}
	footer, err := parseSeekFooter(tail, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, footer.tableSize())
	if err := readFullAt(src, b, size-int64(len(b))); err != nil {
		return nil, err
	}
	if string(b[len(b)-seekFooterSize:]) != string(tail) {
		return nil, corruptTable("its footer changed between two reads")
	}
	table, err := parseSeekTable(b, footer, size-int64(len(b)), t.maxSize, t.maxWindow())
	if err != nil {
		return nil, err
	}
	// A frame is decompressed to a buffer of its size, which is bounded, and needs no window beside
	// it.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxStatedWindow), zstd.WithDecoderMaxMemory(math.MaxInt64), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("compress: %s: %w", ZstdSeekable, err)
	}
	r := &seekable{src: src, table: table, decoder: decoder}
	r.stored.New = func() any { return new([]byte) }
	return io.NewSectionReader(r, 0, table.size), nil
}

// ReadAt fills p with the bytes before compression that begin at off, which is not negative.
func (r *seekable) ReadAt(p []byte, off int64) (int, error) {
	return recent.ReadAt(p, off, r.table.size, r.readBlock)
}

// readBlock copies to p the bytes from off to the end of their frame.
func (r *seekable) readBlock(p []byte, off int64) (int, error) {
	if n := r.recent.Copy(p, off); n > 0 {
		return n, nil
	}
	f := r.table.find(off)
	if off == f.plain && int64(len(p)) >= f.plainSize {
		if err := r.open(p[:f.plainSize:f.plainSize], f); err != nil {
			return 0, err
		}
		return int(f.plainSize), nil
	}
	plain := make([]byte, f.plainSize)
	if err := r.open(plain, f); err != nil {
		return 0, err
	}
	r.recent.Keep(f.plain, plain)
	return copy(p, plain[off-f.plain:]), nil
}

// open reads a frame and decompresses it to dst, which has the frame's size.
func (r *seekable) open(dst []byte, f seekFrame) error {
	buf := r.stored.Get().(*[]byte)
	defer r.stored.Put(buf)
	if int64(cap(*buf)) < f.storedSize {
		*buf = make([]byte, f.storedSize)
	}
	stored := (*buf)[:f.storedSize]
	if err := readFullAt(r.src, stored, f.stored); err != nil {
		return err
	}
	plain, err := r.decoder.DecodeAll(stored, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("%w: %s: frame at %d: %w", ErrCorrupt, ZstdSeekable, f.stored, err)
	}
	if len(plain) != len(dst) {
		return fmt.Errorf("%w: %s: frame at %d decompresses to %d bytes, %d by its table", ErrCorrupt, ZstdSeekable, f.stored, len(plain), len(dst))
	}
	if &plain[0] != &dst[0] { // the decoder does not promise to write to dst
		copy(dst, plain)
	}
	if r.table.checksums && uint32(xxhash.Sum64(dst)) != f.checksum {
		return fmt.Errorf("%w: %s: frame at %d does not have the checksum of its table", ErrCorrupt, ZstdSeekable, f.stored)
	}
	return nil
}

// readFullAt fills p. The error is src's own, or holds ErrCorrupt if src ends too early.
func readFullAt(src io.ReaderAt, p []byte, off int64) error {
	n, err := checked.ReadAt(src, p, off)
	if err == io.EOF {
		return fmt.Errorf("%w: %s: the source ends at %d: %w", ErrCorrupt, ZstdSeekable, off+int64(n), io.ErrUnexpectedEOF)
	}
	if err != nil {
		return fmt.Errorf("compress: %s: reading the source at %d: %w", ZstdSeekable, off, err)
	}
	return nil
}
