package message

import (
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// ErrPikoV2 means that the input is no message but begins as a stream that Piko wrote before pikokms, and Decrypter.AllowPikoV2
// is not set.
var ErrPikoV2 = errors.New("not a message but a stream that Piko wrote before pikokms")

// classify puts the port's sentinel before an error of the format. Errors of a source or destination stay as they are.
func classify(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	for _, e := range [...]error{header.ErrAuthentication, frame.ErrAuthentication, frame.ErrSequence, frame.ErrTrailingData} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
		}
	}
	for _, e := range [...]error{header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit, frame.ErrTruncated, frame.ErrMalformed, frame.ErrTooLarge} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", provider.ErrInvalidCiphertext, err)
		}
	}
	return err
}
