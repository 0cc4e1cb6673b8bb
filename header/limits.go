package header

import (
	"errors"
	"fmt"
	"math"
)

// ErrLimit means that a message exceeds a limit of its reader. The error is a [LimitError].
var ErrLimit = errors.New("message header exceeds a limit")

// Limits bound the memory that a reader takes for a header, and the work that a header can cause. A
// zero field means its default.
type Limits struct {
	MaxSize              int // bytes of the whole header, default 256 KiB
	MaxPairs             int // encryption context pairs, default 1,024
	MaxEncryptedDataKeys int // default 16
	MaxFrameLength       int // bytes, default 64 MiB

	// MaxAttempts bounds how often a message's reader asks keyrings to unwrap one of its data keys;
	// the default is 8. A keyring that does not trust a data key's wrapping key refuses without any
	// work, which does not count. Package message applies this limit.
	MaxAttempts int
}

// The default limits. Writers keep to them, too, so that readers with default limits accept what
// they write.
const (
	defaultMaxSize              = 256 << 10
	defaultMaxPairs             = 1024
	defaultMaxEncryptedDataKeys = 16
	defaultMaxFrameLength       = 64 << 20
	defaultMaxAttempts          = 8
)

// WithDefaults returns the limits with defaults in place of zero fields.
func (l Limits) WithDefaults() Limits {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
		*field = min(*field, math.MaxInt-1<<20) // so that no sum of a limit and a few sizes overflows
	}
	set(&l.MaxSize, defaultMaxSize)
	set(&l.MaxPairs, defaultMaxPairs)
	set(&l.MaxEncryptedDataKeys, defaultMaxEncryptedDataKeys)
	set(&l.MaxFrameLength, defaultMaxFrameLength)
	set(&l.MaxAttempts, defaultMaxAttempts)
	return l
}

// LimitError says which limit a message exceeds. [errors.Is] finds [ErrLimit] in it.
//
// A program that sets a limit under another name, such as a flag, can find the LimitError with
// [errors.AsType] and report a copy of it with that name as Option.
type LimitError struct {
	Limit  string // the name of the field of Limits
	Reason string // what the message has, and how much of it is accepted
	Option string // what sets the limit: "Limits." and the field's name
}

func (e *LimitError) Error() string {
	if e.Option == "" {
		return fmt.Sprintf("%v: %s", ErrLimit, e.Reason)
	}
	return fmt.Sprintf("%v: %s (%s sets the limit)", ErrLimit, e.Reason, e.Option)
}

func (e *LimitError) Unwrap() error { return ErrLimit }

// exceeded returns a LimitError.
func exceeded(limit, format string, values ...any) error {
	return &LimitError{Limit: limit, Reason: fmt.Sprintf(format, values...), Option: "Limits." + limit}
}

// The functions below check each limit, for a Scanner and for a Header that is to be sealed.

func (l *Limits) checkSize(n int) error {
	if n > l.MaxSize {
		return exceeded("MaxSize", "it has over %d bytes", l.MaxSize)
	}
	return nil
}

func (l *Limits) checkPairs(n int) error {
	if n > l.MaxPairs {
		return exceeded("MaxPairs", "%d encryption context pairs, at most %d are taken", n, l.MaxPairs)
	}
	return nil
}

func (l *Limits) checkKeys(n int) error {
	if n > l.MaxEncryptedDataKeys {
		return exceeded("MaxEncryptedDataKeys", "%d encrypted data keys, at most %d are taken", n, l.MaxEncryptedDataKeys)
	}
	return nil
}

func (l *Limits) checkFrameLength(n uint32) error {
	if uint64(n) > uint64(l.MaxFrameLength) {
		return exceeded("MaxFrameLength", "frame length %d, at most %d bytes are taken", n, l.MaxFrameLength)
	}
	return nil
}

// Check checks that a reader with these limits accepts a header with these fields, and that the
// format can hold its encryption context. The encrypted data keys may still be empty. The error
// holds [ErrLimit] or [ErrInvalidContext].
func (l Limits) Check(h *Header) error {
	l = l.WithDefaults()
	if err := l.checkPairs(len(h.EncryptionContext)); err != nil {
		return err
	}
	if err := l.checkKeys(len(h.EncryptedDataKeys)); err != nil {
		return err
	}
	if err := l.checkFrameLength(h.FrameLength); err != nil {
		return err
	}
	if err := checkFormat(h.EncryptionContext); err != nil {
		return err
	}
	return l.checkSize(h.storedSize())
}
