package frame

import (
	"fmt"
	"math"
)

// EncryptedSize returns the exact size in bytes of the body that this package makes of n bytes of
// plaintext. The error holds [ErrTooLong], or [ErrMalformed] if n is negative or frameLength is not
// positive.
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

// PlaintextSize returns the exact number of plaintext bytes in a body of n bytes, whoever wrote it.
// Two bodies of one size never have plaintexts of different sizes. The error holds [ErrMalformed]
// if no body has that size.
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
