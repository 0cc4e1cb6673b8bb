package header

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/gcm"
)

// SniffSize is how many first bytes of a message [Sniff] needs.
const SniffSize = 4

// Sniff reports whether b begins like a message of any version and suite of the specification.
func Sniff(b []byte) bool { return len(b) >= SniffSize && checkStart(b) == nil }

// suiteOf returns the suite in a message's first SniffSize bytes.
func suiteOf(b []byte) Suite {
	if b[0] == version1 {
		return Suite(binary.BigEndian.Uint16(b[2:]))
	}
	return Suite(binary.BigEndian.Uint16(b[1:]))
}

// appendStart appends the first bytes of every message of the suite.
func (s Suite) appendStart(b []byte) []byte {
	if s.algorithms().version == version1 {
		return append(b, version1, type1, byte(s>>8), byte(s))
	}
	return append(b, version2, byte(s>>8), byte(s))
}

// checkStart checks a message's first SniffSize bytes.
func checkStart(b []byte) error {
	if version := suiteOf(b).algorithms().version; version != 0 && version == b[0] && (b[0] != version1 || b[1] == type1) {
		return nil
	}
	if string(b[:3]) == "AgR" || string(b[:3]) == "AgV" || string(b[:2]) == "AY" {
		// The specification asks for this hint (client-apis/decrypt.md, "Encrypted Message
		// Format").
		return fmt.Errorf("%w: it looks like the base64 text of one; decode it first", ErrNotMessage)
	}
	return fmt.Errorf("%w: it begins with no version and algorithm suite of one, such as 02 04 78", ErrNotMessage)
}

// Scanner finds the end of a header in bytes that arrive piece by piece. It refuses a header over
// its Limits before it asks for the bytes in question. The zero Scanner is ready to use.
type Scanner struct {
	Limits Limits

	state     state
	suite     Suite
	contextAt int // where the encryption context begins
	need      int // how many bytes from the header's start the state needs; 0 before the first Scan
	fields    int // how many length-prefixed fields of encrypted data keys are still to come
}

// state is the part of the header that a Scanner looks at next.
type state int

const (
	atStart state = iota
	atContextLength
	atKeyCount
	atKeyField
	atEnd
	pastEnd
)

// Scan looks at b, all bytes of the message so far. If done is true, size is the header's size.
// Otherwise it is how many bytes from the message's start Scan needs next. The errors are those of
// Read for what is in b.
func (s *Scanner) Scan(b []byte) (size int, done bool, err error) {
	if s.need == 0 {
		s.Limits = s.Limits.WithDefaults()
		s.need = SniffSize
	}
	for s.state != pastEnd && len(b) >= s.need {
		if err := s.advance(b); err != nil {
			return 0, false, err
		}
		if err := s.Limits.checkSize(s.need); err != nil {
			return 0, false, err
		}
	}
	return s.need, s.state == pastEnd, nil
}

// advance goes on to the next state. All states but the first and the last end with a length or
// count of two bytes.
func (s *Scanner) advance(b []byte) error {
	switch s.state {
	case atStart:
		if err := checkStart(b[:SniffSize]); err != nil {
			return err
		}
		s.suite, s.state = suiteOf(b), atContextLength
		s.need = 1 + 2 + messageIDSize2 + 2
		if b[0] == version1 {
			s.need = 1 + 1 + 2 + messageIDSize1 + 2
		}
		s.contextAt = s.need
	case atContextLength:
		s.state = atKeyCount
		s.need += int(binary.BigEndian.Uint16(b[s.need-2:])) + 2
	case atKeyCount:
		if err := s.Limits.checkPairs(pairCount(b[s.contextAt : s.need-2])); err != nil {
			return err
		}
		count := int(binary.BigEndian.Uint16(b[s.need-2:]))
		if count == 0 {
			return fmt.Errorf("%w: no encrypted data key", ErrMalformed)
		}
		if err := s.Limits.checkKeys(count); err != nil {
			return err
		}
		s.state, s.fields = atKeyField, 3*count
		s.need += 2
	case atKeyField:
		s.need += int(binary.BigEndian.Uint16(b[s.need-2:]))
		if s.fields--; s.fields > 0 {
			s.need += 2
			return nil
		}
		s.state = atEnd
		s.need += 1 + 4 + s.suite.authenticationSize()
		if s.suite.Commits() {
			s.need += commitmentSize
		} else {
			s.need += 4 + 1
		}
	case atEnd:
		at := s.need - s.suite.authenticationSize() - 4
		if s.suite.Commits() {
			at -= commitmentSize
		}
		if err := s.Limits.checkFrameLength(binary.BigEndian.Uint32(b[at:])); err != nil {
			return err
		}
		s.state = pastEnd
	}
	return nil
}

// Read reads a header from r, and not a byte more. It never takes a failure of r for its end, even
// if the failure comes with the header's last byte.
//
// The error holds [ErrNotMessage], [ErrMalformed], [ErrUnsupported] or [ErrLimit], is [io.EOF] if r
// is empty, or holds r's own error.
func Read(r io.Reader, limits Limits) (*Header, error) {
	s := Scanner{Limits: limits}
	source := checked.Reader{Source: r}
	buf := make([]byte, 0, 512) // enough for one or two keys and a small context
	for {
		need, done, err := s.Scan(buf)
		if err != nil {
			return nil, err
		}
		if done {
			if err := source.Err(); err != nil && err != io.EOF {
				return nil, fmt.Errorf("header: reading: %w", err)
			}
			return decode(buf)
		}
		have := len(buf)
		if need > cap(buf) {
			buf = append(make([]byte, 0, max(need, 2*cap(buf))), buf...)
		}
		n, err := source.ReadFull(buf[have:need])
		buf = buf[:have+n]
		if err == io.EOF {
			return nil, cutShort(buf)
		}
		if err != nil {
			return nil, fmt.Errorf("header: reading: %w", err)
		}
	}
}

// cutShort returns the error of a header that ends after these bytes.
func cutShort(have []byte) error {
	if len(have) == 0 {
		return io.EOF
	}
	if len(have) < SniffSize && !slices.ContainsFunc(Suites(), func(s Suite) bool { return bytes.HasPrefix(s.appendStart(nil), have) }) {
		return fmt.Errorf("%w: it has %d bytes", ErrNotMessage, len(have))
	}
	return fmt.Errorf("%w: cut short after %d bytes: %w", ErrMalformed, len(have), io.ErrUnexpectedEOF)
}

// Parse reads the header at the start of b, and returns it with its size in bytes. The Header keeps
// no part of b. The errors are those of [Read]. If b ends within the header, the error holds
// [io.ErrUnexpectedEOF].
func Parse(b []byte, limits Limits) (*Header, int, error) {
	s := Scanner{Limits: limits}
	size, done, err := s.Scan(b)
	if err != nil {
		return nil, 0, err
	}
	if !done {
		return nil, 0, cutShort(b)
	}
	h, err := decode(append([]byte(nil), b[:size]...))
	if err != nil {
		return nil, 0, err
	}
	return h, size, nil
}

// decode reads a whole header after a Scanner has checked its lengths and counts. It keeps raw.
func decode(raw []byte) (*Header, error) {
	b := raw
	take := func(n int) []byte {
		part := b[:n:n]
		b = b[n:]
		return part
	}
	field := func() []byte { return take(int(binary.BigEndian.Uint16(take(2)))) }

	var decoded struct { // one allocation for both
		Header
		key [1]EncryptedDataKey // used if there is only one
	}
	h := &decoded.Header
	h.raw, h.Suite = raw, suiteOf(raw)
	if raw[0] == version1 {
		take(1 + 1 + 2)
		h.MessageID = take(messageIDSize1)
	} else {
		take(1 + 2)
		h.MessageID = take(messageIDSize2)
	}
	context, err := parseContext(field())
	if err != nil {
		return nil, err
	}
	h.EncryptionContext = context
	if count := int(binary.BigEndian.Uint16(take(2))); count == 1 {
		h.EncryptedDataKeys = decoded.key[:]
	} else {
		h.EncryptedDataKeys = make([]EncryptedDataKey, count)
	}
	for i := range h.EncryptedDataKeys {
		h.EncryptedDataKeys[i] = EncryptedDataKey{ProviderID: string(field()), ProviderInfo: field(), Ciphertext: field()}
	}
	h.ContentType = ContentType(take(1)[0])
	if raw[0] == version1 {
		if reserved, ivSize := take(4), take(1); string(reserved) != "\x00\x00\x00\x00" || ivSize[0] != gcm.IVSize {
			return nil, fmt.Errorf("%w: reserved bytes % x and IV length %d, which should be zero and %d", ErrMalformed, reserved, ivSize[0], gcm.IVSize)
		}
	}
	h.FrameLength = binary.BigEndian.Uint32(take(4))
	if h.Suite.Commits() {
		h.Commitment = take(commitmentSize)
	} else {
		copy(h.iv[:], take(gcm.IVSize))
	}
	copy(h.tag[:], take(gcm.TagSize))
	switch {
	case h.ContentType == Unframed && h.FrameLength != 0:
		return nil, fmt.Errorf("%w: frame length %d in an unframed message", ErrMalformed, h.FrameLength)
	case h.ContentType == Unframed:
		return h, nil
	case h.ContentType != Framed:
		return nil, fmt.Errorf("%w: content type %02x", ErrMalformed, byte(h.ContentType))
	case h.FrameLength == 0:
		return nil, fmt.Errorf("%w: frame length 0 in a framed message", ErrMalformed)
	}
	return h, nil
}
