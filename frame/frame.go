// Package frame seals plaintext into the frames of an AWS Encryption SDK message body and opens them again.
//
// It stands between a message's header, which gives it the cipher, the message ID and the frame length, and the bytes of
// the application. Each direction comes as a push stream (an io.WriteCloser) and as a pull stream (an io.Reader), which holds
// one frame in memory whatever the message's size. Config.Parallelism says when one takes several cores, and what memory then.
//
// The format is the specification's data-format/message-body.md ("Framed Data") and data-format/message-body-aad.md.
// Invariants: frames count from 1 without a gap; a body ends with exactly one final frame, behind which stands at most the
// footer of a signed message, and with the input; no byte of a frame is released before its tag is verified, and none of the
// final one before the footer is. The final frame that is written here is always shorter than a regular one, empty if need be:
// the specification lets it be full too, which is read, but AWS's SDK for Python refuses that.
package frame

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

var (
	// ErrAuthentication means that a frame's tag or IV does not fit: the frame was changed, comes from another message or
	// stands in another place than it was written for.
	ErrAuthentication = errors.New("frame failed authentication")
	// ErrSequence means that a frame is missing, repeated or out of order.
	ErrSequence = errors.New("frame out of sequence")
	// ErrTruncated means that the body ends before its final frame does. It comes with io.ErrUnexpectedEOF.
	ErrTruncated = errors.New("message body cut short")
	// ErrTrailingData means that bytes follow the final frame.
	ErrTrailingData = errors.New("data after the final frame")
	// ErrMalformed means that a frame breaks the format, or that no body has the stated size.
	ErrMalformed = errors.New("malformed message body")
	// ErrTooLong means that the plaintext needs more than the 2³²−1 frames that a message can hold.
	ErrTooLong = errors.New("plaintext too long for its frame length")
	// ErrTooLarge means that an unframed body is larger than the reader's bound.
	ErrTooLarge = errors.New("unframed message body exceeds the bound")
	// ErrClosed means a write to a closed stream.
	ErrClosed = errors.New("stream is closed")
)

const (
	ivSize  = 12
	tagSize = 16

	// RegularOverhead and FinalOverhead are the bytes that a frame has beside its content, UnframedOverhead those that an
	// unframed body has.
	RegularOverhead  = 4 + ivSize + tagSize
	FinalOverhead    = 4 + 4 + ivSize + 4 + tagSize
	UnframedOverhead = ivSize + 8 + tagSize

	regularStart  = 4 + ivSize         // where a regular frame's content begins
	finalStart    = 4 + 4 + ivSize + 4 // where the final frame's content begins
	unframedStart = ivSize + 8         // where an unframed body's content begins

	endMarker = math.MaxUint32
	maxFrames = math.MaxUint32
)

// Config is what a body's frames share.
type Config struct {
	AEAD      cipher.AEAD // AES-GCM with 12-byte IVs and 16-byte tags, under a key that no other message uses
	MessageID []byte      // from the header
	Length    int         // bytes of plaintext in a regular frame; of an unframed body, the most that is taken

	// Unframed says, for opening, that the body is one sealed block: it is held in memory until its tag is verified.
	Unframed bool

	// Parallelism is the most goroutines that seal or open frames of a stream side by side. 1 means that its caller's does.
	// 0 means GOMAXPROCS, at most MaxDefaultParallelism, less those that other streams of the process have.
	//
	// A stream takes several once it has come past 1 MiB of plaintext, or is given as much in one Write, and only during a call
	// of WriteTo or ReadFrom, or a Read or Write of 512 KiB or more; none outlives its call. The source is then read and the
	// destination written to at the same time, by two goroutines. What they work on are runs of 256 KiB, behind 16 MiB of
	// 512 KiB, or of one frame if that is longer: up to twice Parallelism + 4 of them are in memory, and no more than MaxRunBytes. A stream whose frames are too
	// long for that has no such goroutines, nor has one with a Digest.
	Parallelism int

	// Digest, if not nil, receives every byte of the body as stored.
	Digest io.Writer

	// Footer, if not nil, is called when opening, with all that stands behind the body, before the last plaintext is released.
	Footer func(footer []byte) error
}

// maxFooter is more than any footer has.
const maxFooter = 1024

// EncryptedSize returns the exact size in bytes of the body that the writers of this package make of n bytes of plaintext.
// The error holds ErrTooLong.
func EncryptedSize(n int64, frameLength int) (int64, error) {
	if n < 0 || frameLength <= 0 {
		return 0, fmt.Errorf("%w: plaintext size %d, frame length %d", ErrMalformed, n, frameLength)
	}
	regular := n / int64(frameLength)
	if regular >= maxFrames || regular*RegularOverhead > math.MaxInt64-n-FinalOverhead {
		return 0, fmt.Errorf("%w: %d bytes in frames of %d", ErrTooLong, n, frameLength)
	}
	return n + regular*RegularOverhead + FinalOverhead, nil
}

// PlaintextSize returns the exact number of plaintext bytes in a body of n bytes, whoever wrote it: each size has at most
// one layout. The error holds ErrMalformed when no body has that size.
func PlaintextSize(n int64, frameLength int) (int64, error) {
	if n < FinalOverhead || frameLength <= 0 {
		return 0, fmt.Errorf("%w: %d bytes are less than a final frame", ErrMalformed, n)
	}
	regular := (n - FinalOverhead) / (int64(frameLength) + RegularOverhead)
	rest := (n - FinalOverhead) % (int64(frameLength) + RegularOverhead)
	if rest > int64(frameLength) || regular >= maxFrames {
		return 0, fmt.Errorf("%w: no body of frame length %d has %d bytes", ErrMalformed, frameLength, n)
	}
	return regular*int64(frameLength) + rest, nil
}

// sequence seals or opens one body's frames in order.
type sequence struct {
	Config
	number  uint32    // of the next frame
	scratch [128]byte // of additional

	parallelFrom uint32 // the number of the first frame that may be a pipeline's
}

const never = endMarker

func newSequence(c Config) sequence {
	s := sequence{Config: c, number: 1, parallelFrom: never}
	if c.Parallelism != 1 && !c.Unframed && c.Digest == nil && c.Length > 0 {
		s.parallelFrom = 1 + uint32(parallelFrom/c.Length)
	}
	return s
}

// bufferSize is room for one frame of either kind, or for the beginning of an unframed body.
func (s *sequence) bufferSize() int {
	if s.Unframed {
		return min(s.Length+UnframedOverhead, 64<<10)
	}
	return s.Length + FinalOverhead
}

// observe passes stored bytes to the digest.
func (s *sequence) observe(b []byte) error {
	if s.Digest == nil {
		return nil
	}
	_, err := s.Digest.Write(b)
	return err
}

// additional returns the next frame's additional data, which stands until the next call.
func (s *sequence) additional(final bool, contentLength int) []byte {
	kind := "AWSKMSEncryptionClient Frame"
	switch {
	case s.Unframed:
		kind = "AWSKMSEncryptionClient Single Block"
	case final:
		kind = "AWSKMSEncryptionClient Final Frame"
	}
	b := append(append(s.scratch[:0], s.MessageID...), kind...)
	b = binary.BigEndian.AppendUint32(b, s.number)
	return binary.BigEndian.AppendUint64(b, uint64(contentLength))
}

func putIV(b []byte, number uint32) {
	clear(b[:ivSize-4])
	binary.BigEndian.PutUint32(b[ivSize-4:], number)
}

// sealRegular writes the next frame at the start of buf. The content either lies outside buf or exactly where the frame
// has it, at buf[regularStart:].
func (s *sequence) sealRegular(buf, content []byte) ([]byte, error) {
	if s.number == endMarker {
		return nil, fmt.Errorf("%w: over 2³²−1 frames of %d bytes", ErrTooLong, s.Length)
	}
	binary.BigEndian.PutUint32(buf, s.number)
	putIV(buf[4:], s.number)
	sealed := s.AEAD.Seal(buf[:regularStart], buf[4:regularStart], content, s.additional(false, s.Length))
	s.number++
	return sealed, s.observe(sealed)
}

// sealFinal is sealRegular for the frame that ends the body, whose content stands at buf[finalStart:].
func (s *sequence) sealFinal(buf, content []byte) ([]byte, error) {
	binary.BigEndian.PutUint32(buf, endMarker)
	binary.BigEndian.PutUint32(buf[4:], s.number)
	putIV(buf[8:], s.number)
	binary.BigEndian.PutUint32(buf[8+ivSize:], uint32(len(content)))
	sealed := s.AEAD.Seal(buf[:finalStart], buf[8:8+ivSize], content, s.additional(true, len(content)))
	return sealed, s.observe(sealed)
}

// measure looks at the bytes of the next frame that are there and returns how many it needs to go on. When that many are
// there, whole says that they are the frame.
func (s *sequence) measure(b []byte) (need int, final, whole bool, err error) {
	if s.Unframed {
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
		return s.Length + RegularOverhead, false, true, nil
	}
	if len(b) < finalStart {
		return finalStart, true, false, nil
	}
	if number := binary.BigEndian.Uint32(b[4:]); number != s.number {
		return 0, false, false, fmt.Errorf("%w: final frame %d stands where %d belongs", ErrSequence, number, s.number)
	}
	length := binary.BigEndian.Uint32(b[8+ivSize:])
	if uint64(length) > uint64(s.Length) {
		return 0, false, false, fmt.Errorf("%w: the final frame states %d bytes, over the frame length %d", ErrMalformed, length, s.Length)
	}
	return FinalOverhead + int(length), true, true, nil
}

func (s *sequence) measureUnframed(b []byte) (need int, final, whole bool, err error) {
	if len(b) < unframedStart {
		return unframedStart, true, false, nil
	}
	length := binary.BigEndian.Uint64(b[ivSize:])
	if length > uint64(s.Length) {
		return 0, false, false, fmt.Errorf("%w: it states %d bytes, at most %d are taken, since they are held in memory", ErrTooLarge, length, s.Length)
	}
	return UnframedOverhead + int(length), true, true, nil
}

// open verifies a whole frame, or an unframed body, and decrypts it to dst[:0], which is its own content or lies outside it.
// A nil dst means in place. The IV is the stored one: writers of today use the frame's number, early ones drew it.
func (s *sequence) open(dst, b []byte, final bool) ([]byte, error) {
	iv, content := b[4:regularStart], b[regularStart:]
	switch {
	case s.Unframed:
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
	plaintext, err := s.AEAD.Open(dst[:0], iv, content, s.additional(final, len(content)-tagSize))
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d", ErrAuthentication, s.number)
	}
	s.number++
	return plaintext, nil
}

// read fills b from r. Unlike io.ReadFull it keeps the source's own io.ErrUnexpectedEOF, the sign of a broken
// connection, apart from the source's end, which is io.EOF whether bytes came before it or not.
func read(r io.Reader, b []byte, atLeast int) (n int, err error) {
	for empty := 0; n < atLeast; {
		m, err := r.Read(b[n:])
		if m < 0 || m > len(b)-n {
			return n, fmt.Errorf("frame: the source says it read %d bytes into %d", m, len(b)-n)
		}
		n += m
		if err != nil {
			if n >= atLeast && err == io.EOF {
				return n, nil
			}
			return n, err
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// writeAll writes b to w and returns how many bytes of it w took.
func writeAll(w io.Writer, b []byte) (int, error) {
	n, err := w.Write(b)
	if n < 0 || n > len(b) {
		return 0, fmt.Errorf("frame: the destination says it wrote %d bytes of %d", n, len(b))
	}
	switch {
	case err == nil && n != len(b):
		err = io.ErrShortWrite
	case err == io.EOF:
		err = fmt.Errorf("frame: the destination: %w", err) // not the source's end
	}
	return n, err
}

// writeAllFrames writes out, the rest of a frame, and then every next one, with those that several writes at once in
// between. What w did not take is left in out.
func writeAllFrames(w io.Writer, out *[]byte, several func() (int64, error), next func() ([]byte, error)) (written int64, err error) {
	for {
		if len(*out) > 0 {
			n, err := writeAll(w, *out)
			written += int64(n)
			*out = (*out)[n:]
			if err != nil {
				return written, err
			}
		}
		n, err := several()
		written += n
		if err != nil {
			return written, err
		}
		if *out, err = next(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
	}
}
