// Package frame seals plaintext into the frames of an AWS Encryption SDK message body, and opens
// them again.
//
// A message's header gives it the cipher, the message ID and the frame length. Each direction comes
// as a push stream, an [io.WriteCloser], and as a pull stream, an [io.Reader]. A stream holds one
// frame in memory, whatever the message's size, or two when it opens a signed message. A stream
// that opens frames takes memory as their bytes arrive, at most twice as much, whatever frame
// length the header states. [Config.Parallelism] says when a stream uses several cores, and how
// much memory it takes then.
//
// The format is that of the specification's data-format/message-body.md ("Framed Data") and
// data-format/message-body-aad.md. These invariants hold:
//
//   - Frames count from 1 without a gap.
//   - A body ends with exactly one final frame. Only the footer of a signed message may follow it.
//   - No byte of a frame is released before its tag is verified. In a signed message, the last
//     frame that has content is only released once the footer is verified. That is the frame before
//     the final one if the final one is empty.
//   - A source that fails, even once, never leads to a final frame, nor to an io.EOF.
//
// The final frame that this package writes is always shorter than a regular one, and empty if need
// be. The specification also allows a full one. Such a frame is read but not written, since AWS's
// SDK for Python refuses it.
package frame

import (
	"crypto/cipher"
	"errors"
	"io"
	"math"
)

var (
	// ErrAuthentication means that a frame's tag or IV is wrong: the frame was changed, belongs to
	// another message, or was moved within its own.
	ErrAuthentication = errors.New("frame failed authentication")
	// ErrSequence means that a frame is missing, repeated or out of order.
	ErrSequence = errors.New("frame out of sequence")
	// ErrTruncated means that the body ends before the end of its final frame. It comes with
	// [io.ErrUnexpectedEOF].
	ErrTruncated = errors.New("message body cut short")
	// ErrTrailingData means that bytes follow the final frame.
	ErrTrailingData = errors.New("data after the final frame")
	// ErrMalformed means that a frame violates the format, or that no body can have the stated
	// size.
	ErrMalformed = errors.New("malformed message body")
	// ErrTooLong means that the plaintext needs more than the 2³²−1 frames that a message can hold.
	ErrTooLong = errors.New("plaintext too long for its frame length")
	// ErrTooLarge means that an unframed body is larger than the reader's bound.
	ErrTooLarge = errors.New("unframed message body exceeds the bound")
	// ErrStreamClosed means that a stream was written to after its Close.
	ErrStreamClosed = errors.New("stream is closed")
	// ErrAborted means that a stream ended early, because of Abort or a panic of its source or
	// destination.
	ErrAborted = errors.New("stream was aborted")
)

const (
	ivSize  = 12
	tagSize = 16

	// RegularOverhead and FinalOverhead are how many bytes a regular and a final frame have in
	// addition to their content. UnframedOverhead is the same for an unframed body.
	RegularOverhead  = 4 + ivSize + tagSize
	FinalOverhead    = 4 + 4 + ivSize + 4 + tagSize
	UnframedOverhead = ivSize + 8 + tagSize

	regularStart  = 4 + ivSize         // where a regular frame's content begins
	finalStart    = 4 + 4 + ivSize + 4 // where the final frame's content begins
	unframedStart = ivSize + 8         // where an unframed body's content begins

	endMarker = math.MaxUint32 // stands where a regular frame has its number
	maxFrames = math.MaxUint32

	// maxFooter is larger than any footer.
	maxFooter = 1024
)

// Config describes a body. All its frames share it.
type Config struct {
	// AEAD is AES-GCM with 12-byte IVs and 16-byte tags, under a key that no other message uses.
	AEAD cipher.AEAD

	// MessageID is the message ID of the header.
	MessageID []byte

	// Length is the number of bytes of plaintext in a regular frame. For an unframed body, it is
	// the most bytes of plaintext that a reader accepts.
	Length int

	// Unframed means that the body to be opened is one sealed block. It is held in memory until its
	// tag is verified. This package does not write unframed bodies.
	Unframed bool

	// Parallelism is the most goroutines that seal or open frames of one stream side by side. 1
	// means that the caller's goroutine does all the work and no other is started. 0 means one for
	// each core, at most 8, as far as other streams leave cores free. All streams of the process
	// that encrypt or compress share these cores.
	//
	// A stream uses several goroutines once more than 1 MiB of plaintext has passed, or when one
	// Write has as much. It does so only within a call of WriteTo or ReadFrom, or of Read or Write
	// with 512 KiB or more. No goroutine outlives its call. Meanwhile the caller's goroutine reads
	// the source, and one more writes to the destination.
	//
	// Each goroutine works on batches of consecutive frames: 256 KiB at a time, 512 KiB after the
	// first 16 MiB, or one frame if that is longer. At most Parallelism + 4 batches are in memory,
	// each once as input and once as output, and all together take at most [MaxParallelMemory]. A
	// stream whose frames are too long for that stays on one goroutine. So does a stream with a
	// Digest.
	Parallelism int

	// Digest, if not nil, receives every stored byte of the body.
	Digest io.Writer

	// Footer, if not nil, verifies all bytes after a body that is opened. It is called before the
	// last plaintext is released. If it returns an error, opening fails with that error.
	Footer func(footer []byte) error
}
