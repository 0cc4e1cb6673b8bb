package frame

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"piko.sh/pikokms/internal/checked"
)

// sequence seals or opens the frames of one body in order.
type sequence struct {
	config  Config
	opening bool
	number  uint32    // of the next frame
	scratch [128]byte // holds what additional returns

	parallelFrom uint32 // number of the first frame that a pipeline may take
}

// never is a parallelFrom that no frame reaches.
const never = math.MaxUint32

func newSequence(c Config, opening bool) sequence {
	s := sequence{config: c, opening: opening, number: 1, parallelFrom: never}
	if c.Parallelism != 1 && !c.Unframed && c.Digest == nil && c.Footer == nil && 0 < c.Length && c.Length <= MaxParallelMemory {
		s.parallelFrom = 1 + uint32((parallelFrom+c.Length-1)/c.Length)
	}
	return s
}

// bufferSize returns the size in bytes of a buffer for one frame of either kind, or for an unframed
// body of the most bytes.
func (s *sequence) bufferSize() int {
	if s.config.Unframed {
		return s.config.Length + UnframedOverhead
	}
	return s.config.Length + FinalOverhead
}

// firstSize returns the size in bytes of a stream's first buffer. When frames are opened, the
// buffer grows with what arrives.
func (s *sequence) firstSize() int {
	if s.opening {
		return min(s.bufferSize(), pooledSize)
	}
	return s.bufferSize()
}

// regularSize returns the size in bytes of a stored regular frame.
func (s *sequence) regularSize() int { return s.config.Length + RegularOverhead }

// inSize and outSize return how many bytes a regular frame has as input and as output.
func (s *sequence) inSize() int {
	if s.opening {
		return s.regularSize()
	}
	return s.config.Length
}

func (s *sequence) outSize() int {
	if s.opening {
		return s.config.Length
	}
	return s.regularSize()
}

// observe writes stored bytes to the digest, if there is one.
func (s *sequence) observe(b []byte) error {
	if s.config.Digest == nil {
		return nil
	}
	_, err := checked.Write(s.config.Digest, b)
	return err
}

// additional returns the next frame's additional data, valid until the next call.
func (s *sequence) additional(final bool, contentLength int) []byte {
	kind := "AWSKMSEncryptionClient Frame"
	switch {
	case s.config.Unframed:
		kind = "AWSKMSEncryptionClient Single Block"
	case final:
		kind = "AWSKMSEncryptionClient Final Frame"
	}
	b := append(append(s.scratch[:0], s.config.MessageID...), kind...)
	b = binary.BigEndian.AppendUint32(b, s.number)
	return binary.BigEndian.AppendUint64(b, uint64(contentLength))
}

func putIV(b []byte, number uint32) {
	clear(b[:ivSize-4])
	binary.BigEndian.PutUint32(b[ivSize-4:], number)
}

// sealRegular writes the next frame to the start of buf. The content is either outside buf or at
// its place in the frame, buf[regularStart:].
func (s *sequence) sealRegular(buf, content []byte) ([]byte, error) {
	if s.number == endMarker {
		return nil, fmt.Errorf("%w: over 2³²−1 frames of %d bytes", ErrTooLong, s.config.Length)
	}
	binary.BigEndian.PutUint32(buf, s.number)
	putIV(buf[4:], s.number)
	sealed := s.config.AEAD.Seal(buf[:regularStart], buf[4:regularStart], content, s.additional(false, s.config.Length))
	s.number++
	return sealed, s.observe(sealed)
}

// sealFinal does the same for the final frame, whose content is at buf[finalStart:].
func (s *sequence) sealFinal(buf, content []byte) ([]byte, error) {
	binary.BigEndian.PutUint32(buf, endMarker)
	binary.BigEndian.PutUint32(buf[4:], s.number)
	putIV(buf[8:], s.number)
	binary.BigEndian.PutUint32(buf[8+ivSize:], uint32(len(content)))
	sealed := s.config.AEAD.Seal(buf[:finalStart], buf[8:8+ivSize], content, s.additional(true, len(content)))
	return sealed, s.observe(sealed)
}

// measure looks at b, the first bytes of the next frame, and returns how many bytes are needed
// next. If whole is true, these are the whole frame; otherwise only enough to know its size.
func (s *sequence) measure(b []byte) (need int, final, whole bool, err error) {
	if s.config.Unframed {
		return s.measureUnframed(b)
	}
	if len(b) < 4 {
		return 4, false, false, nil
	}
	number := binary.BigEndian.Uint32(b)
	if number != endMarker {
		if number != s.number || s.number == endMarker {
			return 0, false, false, fmt.Errorf("%w: frame %d stands where %d belongs", ErrSequence, number, s.number)
		}
		return s.regularSize(), false, true, nil
	}
	if len(b) < finalStart {
		return finalStart, true, false, nil
	}
	if number := binary.BigEndian.Uint32(b[4:]); number != s.number {
		return 0, false, false, fmt.Errorf("%w: final frame %d stands where %d belongs", ErrSequence, number, s.number)
	}
	length := binary.BigEndian.Uint32(b[8+ivSize:])
	if uint64(length) > uint64(s.config.Length) {
		return 0, false, false, fmt.Errorf("%w: the final frame states %d bytes, over the frame length %d", ErrMalformed, length, s.config.Length)
	}
	return FinalOverhead + int(length), true, true, nil
}

func (s *sequence) measureUnframed(b []byte) (need int, final, whole bool, err error) {
	if len(b) < unframedStart {
		return unframedStart, true, false, nil
	}
	length := binary.BigEndian.Uint64(b[ivSize:])
	if length > uint64(s.config.Length) {
		return 0, false, false, fmt.Errorf("%w: it states %d bytes, at most %d are taken, since they are held in memory", ErrTooLarge, length, s.config.Length)
	}
	return UnframedOverhead + int(length), true, true, nil
}

// open verifies b, a whole frame or an unframed body, and decrypts it to dst[:0], or in place if
// dst is nil. It uses the stored IV: early writers chose IVs at random, today's use the frame's
// number.
func (s *sequence) open(dst, b []byte, final bool) ([]byte, error) {
	iv, content := b[4:regularStart], b[regularStart:]
	switch {
	case s.config.Unframed:
		iv, content = b[:ivSize], b[unframedStart:]
	case final:
		iv, content = b[8:8+ivSize], b[finalStart:]
	}
	if dst == nil {
		dst = content
	}
	if err := s.observe(b); err != nil {
		return nil, err
	}
	plaintext, err := s.config.AEAD.Open(dst[:0], iv, content, s.additional(final, len(content)-tagSize))
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d", ErrAuthentication, s.number)
	}
	s.number++
	return plaintext, nil
}

func (s *sequence) truncated() error {
	return fmt.Errorf("%w: within frame %d: %w", ErrTruncated, s.number, io.ErrUnexpectedEOF)
}
