package message

import (
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/signature"
	"piko.sh/pikokms/provider"
)

// ErrPikoV2 means that the input begins like a stream that Piko wrote before it used pikokms, and
// Decrypter.AllowPikoV2 is not set.
var ErrPikoV2 = errors.New("not a message but a stream that Piko wrote before pikokms")

// Errors of a message's body, and of plaintext that no message can hold.
var (
	// ErrTruncated means that a message ends before the end of its final frame. It comes with
	// [io.ErrUnexpectedEOF].
	ErrTruncated = frame.ErrTruncated
	// ErrTrailingData means that bytes follow a message's final frame.
	ErrTrailingData = frame.ErrTrailingData
	// ErrTooLong means that the plaintext needs more than the 2³²−1 frames that a message can hold.
	ErrTooLong = frame.ErrTooLong
)

var (
	errClosed  = fmt.Errorf("message: the stream is %w", provider.ErrClosed)
	errAborted = fmt.Errorf("message: the stream was aborted: %w", provider.ErrClosed)
	errEmpty   = fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
)

// classify wraps an error of the format with the sentinel of package provider that it belongs to.
// It leaves errors alone that have one already, or that come from a source or destination.
func classify(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext) {
		return err
	}
	for _, e := range [...]error{header.ErrAuthentication, header.ErrSignature, frame.ErrAuthentication, frame.ErrSequence, frame.ErrTrailingData} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
		}
	}
	if errors.Is(err, frame.ErrTooLarge) {
		limit := &header.LimitError{Limit: "MaxFrameLength", Reason: "an unframed message counts as one frame", Option: "Limits.MaxFrameLength"}
		return fmt.Errorf("%w: %w: %w", provider.ErrInvalidCiphertext, err, limit)
	}
	for _, e := range [...]error{
		header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit, signature.ErrFooter,
		frame.ErrTruncated, frame.ErrMalformed,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
		}
	}
	return err
}

// aborted replaces frame.ErrAborted, the error of a stream whose source or destination has
// panicked, by the error of this package.
func aborted(err error) error {
	if errors.Is(err, frame.ErrAborted) {
		return errAborted
	}
	return err
}

// abandon makes the Close of w fail, if w is a writer of this package, since the data that were
// copied to it are incomplete. If a source copies itself to w by its WriteTo, w learns of a failure
// in no other way.
func abandon(w io.Writer, err error) {
	if w, ok := w.(interface{ fail(error) error }); ok && err != nil {
		_ = w.fail(err) // the caller returns the error
	}
}
