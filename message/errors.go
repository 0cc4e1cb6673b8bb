package message

import (
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// ErrPikoV2 means that the input is no message but begins as a stream that Piko wrote before
// pikokms, and Decrypter.AllowPikoV2 is not set.
var ErrPikoV2 = errors.New("not a message but a stream that Piko wrote before pikokms")

var (
	errClosed  = fmt.Errorf("message: the stream is %w", provider.ErrClosed)
	errAborted = fmt.Errorf("message: the stream was aborted: %w", provider.ErrClosed)
	errEmpty   = fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
)

// classify puts the port's sentinel before an error of the format. Errors that have one, and those
// of a source or destination, stay as they are.
func classify(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext) {
		return err
	}
	for _, e := range [...]error{header.ErrAuthentication, header.ErrSignature, frame.ErrAuthentication, frame.ErrSequence, frame.ErrTrailingData} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
		}
	}
	for _, e := range [...]error{
		header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit, header.ErrFooter,
		frame.ErrTruncated, frame.ErrMalformed, frame.ErrTooLarge,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
		}
	}
	return err
}

// aborted gives an error of package frame its name in this one: a call of the source or destination
// that panicked has aborted the stream.
func aborted(err error) error {
	if errors.Is(err, frame.ErrAborted) {
		return errAborted
	}
	return err
}

// abandon tells a writer of this package, if w is one, that what is copied to it is not whole. So
// its Close fails after an io.Copy whose source failed, even where the source does the copying.
func abandon(w io.Writer, err error) {
	if w, ok := w.(interface{ fail(error) error }); ok && err != nil {
		_ = w.fail(err) // who copied returns the error
	}
}
