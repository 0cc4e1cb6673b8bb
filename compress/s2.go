package compress

import (
	"io"
	"sync"

	"github.com/klauspost/compress/s2"

	"piko.sh/pikokms/internal/cores"
)

const s2Block = 1 << 20 // the default of s2.NewWriter

// s2Writer is the encoder of format S2. An s2.Writer on several goroutines keeps one of them for as
// long as it is open. So each large Write takes such a writer from a pool and closes it afterwards,
// which appends a stream of its own to those before it (framing_format.txt of Snappy, section 4.1).
type s2Writer struct {
	*s2.Writer
	dst   io.Writer
	begun bool // something was written
}

// s2Start is the stream identifier, with which every stream begins (S2_STREAM_FORMAT of
// klauspost/compress/s2, after framing_format.txt of Snappy, section 4.1). An s2.Writer writes
// nothing at all for an empty stream, so one whose bytes were all cut off would look the same.
const s2Start = "\xff\x06\x00\x00S2sTwO"

var parallelS2 = sync.Pool{New: func() any { return s2.NewWriter(nil, s2.WriterConcurrency(cores.MaxDefault)) }}

func newS2Writer(dst io.Writer, _ int) (encoder, error) {
	return &s2Writer{Writer: s2.NewWriter(dst, s2.WriterConcurrency(1)), dst: dst}, nil
}

// Reset makes w write a new stream to dst.
func (w *s2Writer) Reset(dst io.Writer) {
	w.Writer.Reset(dst)
	w.dst, w.begun = dst, false
}

// Close ends the stream. An empty one is the stream identifier alone.
func (w *s2Writer) Close() error {
	if err := w.Writer.Close(); err != nil || w.begun {
		return err
	}
	_, err := io.WriteString(w.dst, s2Start)
	return err
}

// Write compresses the blocks of p side by side, if there are several.
func (w *s2Writer) Write(p []byte) (int, error) {
	w.begun = w.begun || len(p) > 0
	if len(p) < 2*s2Block {
		return w.Writer.Write(p)
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	parallel := parallelS2.Get().(*s2.Writer)
	defer parallelS2.Put(parallel)
	parallel.Reset(w.dst)
	defer parallel.Reset(nil)
	if err := parallel.EncodeBuffer(p); err != nil {
		return 0, err
	}
	return len(p), parallel.Close()
}
