package compress_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/race"
)

const (
	blockSize = 256 << 10
	tableSize = 8 + 9 // of no frames
)

// mixed compresses less than text and more than noise, and differs from place to place.
func mixed(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+32)
	for len(b) < n {
		b = fmt.Appendf(b, "%d: object %x\n", len(b), random.Uint32N(1<<16))
	}
	return b[:n]
}

// openSeekableOf opens a stream of at most maxSize bytes before compression.
func openSeekableOf(src io.ReaderAt, size, maxSize int64) (*io.SectionReader, error) {
	format, err := compress.New(compress.ZstdSeekable, maxSize)
	if err != nil {
		return nil, err
	}
	return format.OpenSeekable(src, size)
}

func openSeekable(t testing.TB, stored []byte) *io.SectionReader {
	t.Helper()
	r, err := openSeekableOf(bytes.NewReader(stored), int64(len(stored)), 0)
	require.NoError(t, err)
	return r
}

// readSeekable returns everything that a stream has, read at random access.
func readSeekable(stored []byte, maxSize int64) ([]byte, error) {
	r, err := openSeekableOf(bytes.NewReader(stored), int64(len(stored)), maxSize)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

type entry struct{ stored, plain, checksum uint32 }

// table returns a seek table.
func table(entries []entry, checksums bool) []byte {
	var b []byte
	descriptor := byte(0)
	if checksums {
		descriptor = 0x80
	}
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint32(b, e.stored)
		b = binary.LittleEndian.AppendUint32(b, e.plain)
		if checksums {
			b = binary.LittleEndian.AppendUint32(b, e.checksum)
		}
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(entries)))
	b = append(b, descriptor)
	b = binary.LittleEndian.AppendUint32(b, 0x8F92EAB1)
	head := binary.LittleEndian.AppendUint32(nil, 0x184D2A5E)
	return append(binary.LittleEndian.AppendUint32(head, uint32(len(b))), b...)
}

// handmade returns a stream with frames of other sizes than this package writes. An empty block
// becomes an empty frame or, every other one, a skippable frame.
func handmade(t testing.TB, blocks [][]byte, checksums bool) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	require.NoError(t, err)
	var stored []byte
	var entries []entry
	for i, block := range blocks {
		before := len(stored)
		if len(block) == 0 && i%2 == 0 {
			stored = append(stored, "\x50\x2a\x4d\x18\x04\x00\x00\x00skip"...)
		} else {
			stored = encoder.EncodeAll(block, stored)
		}
		entries = append(entries, entry{uint32(len(stored) - before), uint32(len(block)), uint32(xxhash.Sum64(block))})
	}
	return append(stored, table(entries, checksums)...)
}

func TestSeekableReader(t *testing.T) {
	race.SkipShort(t)
	s := newTransformer(t, compress.ZstdSeekable, 0)
	for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize, 3*blockSize + 5} {
		for kind, original := range map[string][]byte{"mixed": mixed(size), "noise": noise(size)} {
			stored := transform(t, s, iotest.HalfReader(bytes.NewReader(original)))
			r := openSeekable(t, stored)
			require.EqualValues(t, size, r.Size())
			if err := iotest.TestReader(r, original); err != nil {
				t.Fatalf("%d bytes of %s: %v", size, kind, err)
			}
			n, err := r.ReadAt(make([]byte, 1), int64(size))
			require.Zero(t, n)
			require.Equal(t, io.EOF, err)
			_, err = r.ReadAt(nil, -1)
			require.Error(t, err)
		}
	}
}

// The layout, byte by byte, from the specification.
func TestSeekableLayout(t *testing.T) {
	s := newTransformer(t, compress.ZstdSeekable, 0)
	require.Equal(t, table(nil, true), transform(t, s, strings.NewReader("")))

	original := mixed(2*blockSize + 100)
	stored := transform(t, s, bytes.NewReader(original))
	decoder, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer decoder.Close()
	at := 0
	var entries []entry
	listed := stored[len(stored)-tableSize-3*12+8:]
	for i, block := range [][]byte{original[:blockSize], original[blockSize : 2*blockSize], original[2*blockSize:]} {
		size := int(binary.LittleEndian.Uint32(listed[12*i:]))
		got, err := decoder.DecodeAll(stored[at:at+size], nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(block, got), "frame %d stands alone", i)
		entries = append(entries, entry{uint32(size), uint32(len(block)), uint32(xxhash.Sum64(block))})
		at += size
	}
	require.Equal(t, table(entries, true), stored[at:])
}

func TestSeekableProperty(t *testing.T) {
	original := append(mixed(3*blockSize), noise(blockSize)...)
	s := newTransformer(t, compress.ZstdSeekable, 0)
	check := func(t *rapid.T, r *io.SectionReader, original []byte) {
		require.EqualValues(t, len(original), r.Size())
		for range rapid.IntRange(1, 20).Draw(t, "reads") {
			off := rapid.IntRange(0, len(original)+10).Draw(t, "off")
			p := make([]byte, rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(0, len(original)+10)).Draw(t, "length"))
			n, err := r.ReadAt(p, int64(off))
			want := original[min(off, len(original)):min(off+len(p), len(original))]
			require.True(t, bytes.Equal(want, p[:n]))
			if n < len(p) || off >= len(original) {
				require.Equal(t, io.EOF, err)
			} else {
				require.NoError(t, err)
			}
		}
	}
	t.Run("own", func(t *testing.T) {
		least := 0
		if race.Enabled {
			least = 2*blockSize - 1
		}
		rapid.Check(t, func(r *rapid.T) {
			original := original[rapid.IntRange(least, len(original)).Draw(r, "from"):]
			check(r, openSeekable(t, transform(t, s, bytes.NewReader(original))), original)
		})
	})
	t.Run("foreign", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			sizes := rapid.SliceOfN(rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 3000)), 0, 300).Draw(r, "sizes")
			var blocks [][]byte
			at := 0
			for _, n := range sizes {
				blocks = append(blocks, original[at:at+n])
				at += n
			}
			stored := handmade(t, blocks, rapid.Bool().Draw(r, "checksums"))
			check(r, openSeekable(t, stored), original[:at])
			got, err := reverse(t, s, bytes.NewReader(stored))
			require.NoError(t, err)
			require.True(t, bytes.Equal(original[:at], got))
		})
	})
}

// counted counts the bytes that are read of a source.
type counted struct {
	io.ReaderAt
	read int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.read += int64(n)
	return n, err
}

func TestSeekableReadsWhatItNeeds(t *testing.T) {
	const blocks = 40
	original := noise(blocks * blockSize) // a frame has as many bytes as its block then, and a few
	stored := transform(t, newTransformer(t, compress.ZstdSeekable, 0), bytes.NewReader(original))
	frameSize := int64(len(stored)-tableSize-blocks*12) / blocks
	require.Greater(t, frameSize, int64(blockSize))

	src := &counted{ReaderAt: bytes.NewReader(stored)}
	r, err := openSeekableOf(src, int64(len(stored)), 0)
	require.NoError(t, err)
	require.EqualValues(t, 9+tableSize+blocks*12, src.read, "opening reads the footer and the table")

	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		off := random.Int64N(int64(len(original)) - 1024)
		src.read = 0
		p := make([]byte, 1024)
		_, err := r.ReadAt(p, off)
		require.NoError(t, err)
		require.True(t, bytes.Equal(original[off:off+1024], p))
		require.LessOrEqual(t, src.read, frameSize*((off+1023)/blockSize-off/blockSize+1))
	}

	src.read = 0
	got, err := io.ReadAll(iotest.OneByteReader(io.NewSectionReader(r, 0, 3*blockSize)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(original[:3*blockSize], got))
	require.LessOrEqual(t, src.read, 3*frameSize, "small reads in a row open each frame once")

	src.read = 0
	for i := range 1000 { // four readers side by side
		off := int64(10+5*(i%4))*blockSize + int64(i)
		_, err := r.ReadAt(make([]byte, 1), off)
		require.NoError(t, err)
	}
	require.EqualValues(t, 4*frameSize, src.read)
}

func TestSeekableConcurrently(t *testing.T) {
	original := mixed(10*blockSize + 77)
	r := openSeekable(t, transform(t, newTransformer(t, compress.ZstdSeekable, 0), bytes.NewReader(original)))
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 50 {
				off := random.IntN(len(original))
				p := make([]byte, random.IntN(min(3*blockSize, len(original)-off)+1))
				if n, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(original[off:off+n], p) {
					t.Errorf("%d bytes at %d: %d bytes, %v", len(p), off, n, err)
				}
			}
		})
	}
	readers.Wait()
}

// No byte of a stream can take another value and have other content come out.
func TestSeekableRefusesDamage(t *testing.T) {
	race.SkipShort(t)
	blocks := [][]byte{text(1000), nil, mixed(300), noise(40), nil}
	original := bytes.Join(blocks, nil)
	s := newTransformer(t, compress.ZstdSeekable, 0)
	stored := handmade(t, blocks, true)
	got, err := readSeekable(stored, 0)
	require.NoError(t, err)
	require.Equal(t, original, got)
	tableAt := len(stored) - tableSize - len(blocks)*12
	unused, refused := 0, 0
	for at := range stored {
		for change := 1; change < 256; change++ {
			if at < tableAt && change&(change-1) != 0 {
				continue
			}
			changed := bytes.Clone(stored)
			changed[at] ^= byte(change)
			got, err := readSeekable(changed, 0)
			if err != nil {
				require.True(t, errors.Is(err, compress.ErrCorrupt) || errors.Is(err, compress.ErrTooLarge) || errors.Is(err, compress.ErrWindow), "%v", err)
				require.True(t, bytes.HasPrefix(original, got))
				refused++
				continue
			}
			require.True(t, bytes.Equal(original, got), "byte %d changed by %#02x", at, change)
			unused++
		}
		got, err := reverse(t, s, bytes.NewReader(replace(stored, at, stored[at]^1)))
		if at >= tableAt && err == nil {
			require.True(t, bytes.Equal(original, got), "byte %d changed", at)
		}
	}
	t.Logf("%d changes refused, %d change nothing", refused, unused)
	require.Greater(t, refused, 20*unused)
	for n := range stored {
		_, err := readSeekable(stored[:n], 0)
		require.ErrorIs(t, err, compress.ErrCorrupt, "cut at %d", n)
		_, err = reverse(t, s, bytes.NewReader(stored[:n]))
		require.ErrorIs(t, err, compress.ErrCorrupt, "cut at %d", n)
		_, err = openSeekableOf(bytes.NewReader(stored[:n]), int64(len(stored)), 0)
		require.ErrorIs(t, err, compress.ErrCorrupt, "the source is cut at %d", n)
	}
	_, err = readSeekable(append(bytes.Clone(stored), stored...), 0)
	require.ErrorIs(t, err, compress.ErrCorrupt)
}

func replace(b []byte, at int, with byte) []byte {
	b = bytes.Clone(b)
	b[at] = with
	return b
}

// TestSeekableRefusesTables refuses wrong tables without checksums, and with correct ones.
func TestSeekableRefusesTables(t *testing.T) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	data := encoder.EncodeAll(text(1000), nil)
	data = encoder.EncodeAll(text(500), data)
	first := uint32(len(encoder.EncodeAll(text(1000), nil)))
	second := uint32(len(data)) - first
	for name, c := range map[string]struct {
		entries []entry
		want    error
	}{
		"right":                        {[]entry{{first, 1000, 0}, {second, 500, 0}}, nil},
		"one entry for two frames":     {[]entry{{first + second, 1500, 0}}, nil},
		"sizes exchanged":              {[]entry{{first, 500, 0}, {second, 1000, 0}}, compress.ErrCorrupt},
		"a byte moved over":            {[]entry{{first, 999, 0}, {second, 501, 0}}, compress.ErrCorrupt},
		"a stored byte moved over":     {[]entry{{first - 1, 1000, 0}, {second + 1, 500, 0}}, compress.ErrCorrupt},
		"a frame is missing":           {[]entry{{first, 1000, 0}}, compress.ErrCorrupt},
		"a frame too many":             {[]entry{{first, 1000, 0}, {second, 500, 0}, {1, 0, 0}}, compress.ErrCorrupt},
		"frames over what stands here": {[]entry{{first, 1000, 0}, {1 << 31, 500, 0}}, compress.ErrWindow},
		"skipped over what stands":     {[]entry{{first, 1000, 0}, {1 << 31, 0, 0}}, compress.ErrCorrupt},
		"less than the frame has":      {[]entry{{first, 1, 0}, {second, 500, 0}}, compress.ErrCorrupt},
		"more than the frame has":      {[]entry{{first, 8 << 20, 0}, {second, 500, 0}}, compress.ErrCorrupt},
		"a frame over the bound":       {[]entry{{first, 8<<20 + 1, 0}, {second, 500, 0}}, compress.ErrWindow},
		"in all over the bound":        {[]entry{{first, 8 << 20, 0}, {second, 8 << 20, 0}}, compress.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readSeekable(append(bytes.Clone(data), table(c.entries, false)...), 10<<20)
			require.ErrorIs(t, err, c.want)
			if c.want == nil {
				require.Equal(t, append(text(1000), text(500)...), got)
			}
		})
	}
	for _, size := range []int64{-1, 0, 16} {
		_, err := openSeekableOf(bytes.NewReader(data), size, 0)
		require.ErrorIs(t, err, compress.ErrCorrupt)
	}
	_, err = readSeekable(data, 0)
	require.ErrorIs(t, err, compress.ErrCorrupt, "plain zstd has no table")
}

func TestSeekableBound(t *testing.T) {
	stored := transform(t, newTransformer(t, compress.ZstdSeekable, 0), bytes.NewReader(text(300_000)))
	_, err := readSeekable(stored, 300_000)
	require.NoError(t, err)
	_, err = readSeekable(stored, 299_999)
	require.ErrorIs(t, err, compress.ErrTooLarge)
}

// allocated returns how many bytes f takes, which may be given back meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestSeekableHostileTablesTakeNoMemory(t *testing.T) {
	claim := func(frames uint32) []byte {
		b := binary.LittleEndian.AppendUint32(bytes.Repeat([]byte{0}, 91), frames)
		return append(b, 0x80, 0xB1, 0xEA, 0x92, 0x8F)
	}
	for _, frames := range []uint32{8, 1 << 20, 1 << 27, 1<<27 + 1, 1<<32 - 1} {
		stored := claim(frames)
		require.Len(t, stored, 100)
		got := allocated(func() {
			_, err := openSeekableOf(bytes.NewReader(stored), int64(len(stored)), 0)
			require.ErrorIs(t, err, compress.ErrCorrupt)
		})
		require.Less(t, got, uint64(64<<10), "%d frames", frames)
	}

	// A frame that holds more than its entry says is decompressed no further.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	bomb := encoder.EncodeAll(make([]byte, 64<<20), nil)
	var streamed bytes.Buffer // so the frame's header does not state its content's size
	w, err := zstd.NewWriter(&streamed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	require.NoError(t, err)
	_, err = io.CopyN(w, zeros{}, 64<<20)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for _, bomb := range [][]byte{bomb, streamed.Bytes(), bytes.Repeat(streamed.Bytes(), 10)} {
		stored := append(bytes.Clone(bomb), table([]entry{{uint32(len(bomb)), 1000, 0}}, false)...)
		r := openSeekable(t, stored)
		got := allocated(func() {
			n, err := r.ReadAt(make([]byte, 10), 0)
			require.ErrorIs(t, err, compress.ErrCorrupt)
			require.Zero(t, n)
		})
		require.Less(t, got, uint64(2<<20))
	}
}

type brokenAt struct{ err error }

func (b brokenAt) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// breaking fails once its err is set.
type breaking struct {
	io.ReaderAt
	err error
}

func (b *breaking) ReadAt(p []byte, off int64) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.ReaderAt.ReadAt(p, off)
}

func TestSeekableSourceError(t *testing.T) {
	mine := errors.New("mine")
	_, err := openSeekableOf(brokenAt{mine}, 1000, 0)
	require.ErrorIs(t, err, mine)
	require.NotErrorIs(t, err, compress.ErrCorrupt)

	original := mixed(2 * blockSize)
	stored := transform(t, newTransformer(t, compress.ZstdSeekable, 0), bytes.NewReader(original))
	src := &breaking{ReaderAt: bytes.NewReader(stored)}
	r, err := openSeekableOf(src, int64(len(stored)), 0)
	require.NoError(t, err)
	_, err = r.ReadAt(make([]byte, 10), 0)
	require.NoError(t, err)
	src.err = mine
	p := make([]byte, 2*blockSize)
	n, err := r.ReadAt(p, 0)
	require.ErrorIs(t, err, mine)
	require.NotErrorIs(t, err, compress.ErrCorrupt)
	require.True(t, bytes.Equal(original[:n], p[:n]))
	require.Equal(t, blockSize, n, "what is in memory needs no source")
	src.err = nil
	_, err = r.ReadAt(p, 0)
	require.NoError(t, err, "an error does not stay")
	require.True(t, bytes.Equal(original, p))
}

// Any zstd decoder opens the format.
func TestSeekableIsZstd(t *testing.T) {
	s := newTransformer(t, compress.ZstdSeekable, 0)
	for _, size := range []int{0, 1, blockSize, 3*blockSize + 5} {
		original := mixed(size)
		stored := transform(t, s, bytes.NewReader(original))

		got, err := reverse(t, newTransformer(t, compress.Zstd, 0), bytes.NewReader(stored))
		require.NoError(t, err)
		require.True(t, bytes.Equal(original, got))

		decoder, err := zstd.NewReader(bytes.NewReader(stored))
		require.NoError(t, err)
		got, err = io.ReadAll(decoder)
		decoder.Close()
		require.NoError(t, err)
		require.True(t, bytes.Equal(original, got))
	}
}

func TestSeekableWithZstdCommand(t *testing.T) {
	command, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("the zstd command is not installed: its reading of our streams is not tested")
	}
	s := newTransformer(t, compress.ZstdSeekable, 0)
	for _, size := range []int{0, 1, blockSize, 3*blockSize + 5} {
		original := mixed(size)
		cmd := exec.CommandContext(t.Context(), command, "-d", "-c")
		cmd.Stdin = bytes.NewReader(transform(t, s, bytes.NewReader(original)))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		got, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		require.True(t, bytes.Equal(original, got), "%d bytes", size)
	}

	// Frames of the command, with a table by hand.
	original := mixed(100_000)
	var stored []byte
	var entries []entry
	for _, block := range [][]byte{original[:60_000], original[60_000:]} {
		cmd := exec.CommandContext(t.Context(), command, "-19", "-c")
		cmd.Stdin = bytes.NewReader(block)
		frame, err := cmd.Output()
		require.NoError(t, err)
		stored = append(stored, frame...)
		entries = append(entries, entry{uint32(len(frame)), uint32(len(block)), uint32(xxhash.Sum64(block))})
	}
	got, err := readSeekable(append(stored, table(entries, true)...), 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(original, got))
}

// Neither side opens a stream that has bytes behind its table or none at all, in whichever pieces
// it comes.
func TestSeekableReverseWantsTheEnd(t *testing.T) {
	s := newTransformer(t, compress.ZstdSeekable, 0)
	stored := transform(t, s, bytes.NewReader(mixed(3*blockSize)))
	for name, pieces := range map[string]func(io.Reader) io.Reader{"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "error with data": iotest.DataErrReader} {
		got, err := reverse(t, s, pieces(bytes.NewReader(stored)))
		require.NoError(t, err, name)
		require.Len(t, got, 3*blockSize)
		_, err = reverse(t, s, pieces(bytes.NewReader(stored[:len(stored)-tableSize-3*12])))
		require.ErrorIs(t, err, compress.ErrCorrupt, name)
	}
	plain := transform(t, newTransformer(t, compress.Zstd, 0), bytes.NewReader(mixed(1000)))
	_, err := reverse(t, s, bytes.NewReader(plain))
	require.ErrorIs(t, err, compress.ErrCorrupt)
	_, err = reverse(t, s, bytes.NewReader(append(bytes.Clone(stored), plain...)))
	require.ErrorIs(t, err, compress.ErrCorrupt)
	_, err = reverse(t, s, strings.NewReader(""))
	require.ErrorIs(t, err, compress.ErrCorrupt)
}

func FuzzOpenSeekable(f *testing.F) {
	s := newTransformer(f, compress.ZstdSeekable, 0)
	f.Add(transform(f, s, strings.NewReader("")), int64(0), uint16(1))
	f.Add(transform(f, s, bytes.NewReader(text(1000))), int64(500), uint16(100))
	f.Add(transform(f, s, bytes.NewReader(text(blockSize+10))), int64(blockSize-5), uint16(100))
	f.Add(handmade(f, [][]byte{text(1000), nil, mixed(100), nil}, true), int64(990), uint16(50))
	f.Add(handmade(f, [][]byte{text(10), nil, nil, noise(100)}, false), int64(0), uint16(110))
	f.Add(table([]entry{{1 << 31, 8 << 20, 0}, {1 << 31, 8 << 20, 0}}, true), int64(0), uint16(1))
	f.Fuzz(func(t *testing.T, stored []byte, off int64, length uint16) {
		const bound = 1 << 20
		known := func(err error) {
			if err != nil && !errors.Is(err, compress.ErrCorrupt) && !errors.Is(err, compress.ErrTooLarge) && !errors.Is(err, compress.ErrWindow) {
				t.Fatalf("unexpected error %v", err)
			}
		}
		r, err := openSeekableOf(bytes.NewReader(stored), int64(len(stored)), bound)
		if err != nil {
			known(err)
			return
		}
		if r.Size() < 0 || r.Size() > bound {
			t.Fatalf("%d bytes over the bound", r.Size())
		}
		whole, err := io.ReadAll(r)
		known(err)
		if err != nil || off < 0 {
			return
		}
		if int64(len(whole)) != r.Size() {
			t.Fatalf("%d of %d bytes", len(whole), r.Size())
		}
		p := make([]byte, length)
		n, err := r.ReadAt(p, off)
		from := min(off, r.Size())
		want := whole[from:min(from+int64(length), r.Size())]
		if !bytes.Equal(want, p[:n]) || (n < len(p) || off >= r.Size()) != (err == io.EOF) {
			t.Fatalf("%d bytes at %d: %d bytes, %v", length, off, n, err)
		}
	})
}

func BenchmarkSeekableReader(b *testing.B) {
	original := mixed(16 << 20)
	stored := transform(b, newTransformer(b, compress.ZstdSeekable, 0), bytes.NewReader(original))
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			openSeekable(b, stored)
		}
	})
	b.Run("random 1 KiB", func(b *testing.B) {
		r := openSeekable(b, stored)
		random := rand.New(rand.NewPCG(1, 2))
		p := make([]byte, 1024)
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		for b.Loop() {
			_, err := r.ReadAt(p, random.Int64N(r.Size()-1024))
			require.NoError(b, err)
		}
	})
	b.Run("in a row, 4 KiB", func(b *testing.B) {
		r := openSeekable(b, stored)
		b.SetBytes(r.Size())
		b.ReportAllocs()
		p := make([]byte, 4096)
		for b.Loop() {
			for off := int64(0); off < r.Size(); off += int64(len(p)) {
				_, err := r.ReadAt(p, off)
				require.NoError(b, err)
			}
		}
	})
}

func ExampleTransformer_OpenSeekable() {
	transformer, err := compress.New(compress.ZstdSeekable, 1<<30)
	if err != nil {
		panic(err)
	}
	var original strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintf(&original, "line %06d\n", i)
	}
	compressed, err := transformer.Transform(context.Background(), strings.NewReader(original.String()), nil)
	if err != nil {
		panic(err)
	}
	stored, err := io.ReadAll(compressed)
	if err != nil {
		panic(err)
	}

	// Of 12 MB, this decompresses 256 KiB.
	r, err := transformer.OpenSeekable(bytes.NewReader(stored), int64(len(stored)))
	if err != nil {
		panic(err)
	}
	line := make([]byte, 11)
	if _, err := r.ReadAt(line, 654_321*12); err != nil {
		panic(err)
	}
	fmt.Printf("%d bytes; %s\n", r.Size(), line)
	// Output: 12000000 bytes; line 654321
}
