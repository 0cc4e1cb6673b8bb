// Package frame seals plaintext into the frames of an AWS Encryption SDK message body, and opens
// them again.
//
// It stands between a message's header, which gives it the cipher, the message ID and the frame
// length, and the bytes of the application. Each direction comes as a push stream (an
// [io.WriteCloser]) and as a pull stream (an [io.Reader]). A stream holds one frame in memory,
// whatever the message's size. [Config.Parallelism] says when it takes several cores, and how much
// memory then.
//
// The format is the one of the specification's data-format/message-body.md ("Framed Data") and
// data-format/message-body-aad.md. These invariants hold:
//
//   - Frames count from 1 without a gap.
//   - A body ends with exactly one final frame. Nothing stands behind it but the footer of a signed
//     message.
//   - No byte of a frame is released before its tag is verified, and none of the final frame before
//     the footer is verified.
//   - A source that fails, even once, never leads to a final frame, nor to an io.EOF.
//
// The final frame that is written here is always shorter than a regular one, and empty if need be.
// The specification lets it be full. Such a frame is read, but not written, since AWS's SDK for
// Python refuses it.
package frame

import (
	"crypto/cipher"
	"errors"
	"io"
	"math"

	"piko.sh/pikokms/internal/cores"
)

var (
	// ErrAuthentication means that a frame's tag or IV does not fit: the frame was changed, comes
	// from another message, or stands in another place than it was written for.
	ErrAuthentication = errors.New("frame failed authentication")
	// ErrSequence means that a frame is missing, repeated or out of order.
	ErrSequence = errors.New("frame out of sequence")
	// ErrTruncated means that the body ends before its final frame does. It comes with
	// [io.ErrUnexpectedEOF].
	ErrTruncated = errors.New("message body cut short")
	// ErrTrailingData means that bytes follow the final frame.
	ErrTrailingData = errors.New("data after the final frame")
	// ErrMalformed means that a frame breaks the format, or that no body has the stated size.
	ErrMalformed = errors.New("malformed message body")
	// ErrTooLong means that the plaintext needs more than the 2³²−1 frames that a message can hold.
	ErrTooLong = errors.New("plaintext too long for its frame length")
	// ErrTooLarge means that an unframed body is larger than the reader's bound.
	ErrTooLarge = errors.New("unframed message body exceeds the bound")
	// ErrClosed means a write to a stream that was closed.
	ErrClosed = errors.New("stream is closed")
	// ErrAborted means that a stream was given up before its end: by Abort, or by a panic of its
	// source or destination.
	ErrAborted = errors.New("stream was aborted")
)

const (
	ivSize  = 12
	tagSize = 16

	// RegularOverhead and FinalOverhead are the bytes that a frame has beside its content.
	// UnframedOverhead are those that an unframed body has.
	RegularOverhead  = 4 + ivSize + tagSize
	FinalOverhead    = 4 + 4 + ivSize + 4 + tagSize
	UnframedOverhead = ivSize + 8 + tagSize

	regularStart  = 4 + ivSize         // where a regular frame's content begins
	finalStart    = 4 + 4 + ivSize + 4 // where the final frame's content begins
	unframedStart = ivSize + 8         // where an unframed body's content begins

	endMarker = math.MaxUint32 // stands in place of the final frame's number
	maxFrames = math.MaxUint32

	// maxFooter is more than any footer has.
	maxFooter = 1024
)

// MaxDefaultParallelism bounds what a [Config.Parallelism] of 0 means.
const MaxDefaultParallelism = cores.MaxDefault

// Config is what the frames of a body share.
type Config struct {
	// AEAD is AES-GCM with 12-byte IVs and 16-byte tags, under a key that no other message uses.
	AEAD cipher.AEAD

	// MessageID is the one in the header.
	MessageID []byte

	// Length is the number of bytes of plaintext in a regular frame. Of an unframed body, it is the
	// most that is taken.
	Length int

	// Unframed says, for opening, that the body is one sealed block. It is held in memory until its
	// tag is verified.
	Unframed bool

	// Parallelism is the most goroutines that seal or open frames of one stream side by side. 1
	// means that the caller's goroutine does it all, and no other is started. 0 means one for each
	// core, at most [MaxDefaultParallelism], as far as other streams leave cores free: all streams
	// of the process share one budget, with those that compress.
	//
	// A stream takes several goroutines once more than 1 MiB of plaintext has passed, or when one
	// Write has as much. It does so only within a call of WriteTo or ReadFrom, or of Read or Write
	// with 512 KiB or more, and no goroutine outlives its call. The caller's goroutine then reads
	// the source, and one more writes to the destination at the same time.
	//
	// Each goroutine works on 256 KiB of consecutive frames at a time, on 512 KiB after the first
	// 16 MiB, or on one frame if that is longer. Parallelism + 4 such pieces are in memory at most,
	// each once as input and once as output, and no more than [MaxParallelMemory] altogether. A
	// stream whose frames are too long for that stays on one goroutine, as does one with a Digest.
	Parallelism int

	// Digest, if not nil, receives every byte of the body as stored.
	Digest io.Writer

	// Footer, if not nil, is called when opening, with all that stands behind the body, before the
	// last plaintext is released.
	Footer func(footer []byte) error
}
