package message

import (
	"fmt"
	"math"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
)

// EncryptedSize returns the exact size in bytes of a message with this header and n bytes of
// plaintext, as pikokms writes it. The error holds [ErrTooLong]. It holds header.ErrUnsupported
// for a signed message, since signatures vary in size, and for an unframed one, which is never
// written.
func EncryptedSize(h *header.Header, n int64) (int64, error) {
	if h.Suite.Signed() || h.ContentType != header.Framed {
		return 0, fmt.Errorf("%w: signed and unframed messages have no size that can be told in advance", header.ErrUnsupported)
	}
	body, err := frame.EncryptedSize(n, int(h.FrameLength))
	if err != nil {
		return 0, err
	}
	if body > math.MaxInt64-int64(h.Size()) {
		return 0, fmt.Errorf("%w: %d bytes", frame.ErrTooLong, n)
	}
	return int64(h.Size()) + body, nil
}

// PlaintextSize returns the exact number of plaintext bytes in a message of n bytes with this
// header, whoever wrote it. It is not authenticated until the message is decrypted. The error holds
// header.ErrUnsupported for a signed message, since signatures vary in size. Any other error means
// that no message has that size.
func PlaintextSize(h *header.Header, n int64) (int64, error) {
	if h.Suite.Signed() {
		return 0, fmt.Errorf("%w: a signed message's size does not tell its plaintext's", header.ErrUnsupported)
	}
	body := max(n, 0) - int64(h.Size())
	if h.ContentType == header.Framed {
		return frame.PlaintextSize(body, int(h.FrameLength))
	}
	if body < frame.UnframedOverhead {
		return 0, fmt.Errorf("%w: %d bytes are less than an unframed body", frame.ErrMalformed, body)
	}
	return body - frame.UnframedOverhead, nil
}
