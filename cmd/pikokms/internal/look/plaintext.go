package look

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikov2"
	"piko.sh/pikokms/provider"
)

// ErrAlready means that what is to be encrypted is a message already.
var ErrAlready = errors.New("it is encrypted already")

// errMalformed means that what is to be encrypted begins as a message and is not a whole one.
var errMalformed = errors.New("it begins as an encrypted object, but its header is none, so nothing tells whether it is damaged or plaintext; --malformed-as-plaintext encrypts it")

// Plaintext returns a reader of r, which is to be encrypted, from its beginning. If r is a message
// the error holds ErrAlready. If it only begins as one the error holds errMalformed, unless
// malformed is set, which makes it plaintext.
func Plaintext(ctx context.Context, r *bufio.Reader, malformed bool) (*bufio.Reader, error) {
	start, err := r.Peek(max(header.SniffSize, pikov2.SniffSize))
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case header.Sniff(start):
		var read bytes.Buffer
		_, err = header.Read(io.TeeReader(r, &read), formatLimits)
		r = bufio.NewReaderSize(io.MultiReader(&read, r), r.Size())
		if err == nil {
			return nil, ErrAlready
		}
		if !IsFormat(err) {
			return nil, err
		}
	case pikov2.Sniff(start):
		if start, err = r.Peek(r.Size()); err != nil && err != io.EOF {
			return nil, err
		}
		if _, err = pikov2.NewReader(ctx, bytes.NewReader(start), nil); errors.Is(err, provider.ErrUntrustedKey) {
			return nil, errors.New("it begins as a stream that Piko wrote before pikokms; rewrap --allow-piko-v2 moves it")
		}
	default:
		return r, nil
	}
	if malformed {
		return r, nil
	}
	return nil, fmt.Errorf("%w: %w", errMalformed, err)
}

// IsFormat reports whether an error is about what an object holds, and not about reading it.
func IsFormat(err error) bool {
	for _, e := range [...]error{header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
