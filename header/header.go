// Package header reads and writes the header of an AWS Encryption SDK message: what a reader must know before it can ask
// for the data key, and what is checked before a byte of the body is opened.
//
// It stands first in every message and is followed by the frames of package frame. It does no I/O beyond one io.Reader
// and knows nothing of key services.
//
// The format is the specification's data-format/message-header.md. Versions 1 and 2 with all algorithm suites are read;
// what pikokms writes is version 2.
package header

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

var (
	// ErrNotMessage means that the input does not begin as an AWS Encryption SDK message does.
	ErrNotMessage = errors.New("not an AWS Encryption SDK message")
	// ErrMalformed means that the input begins as a message but breaks the format. A header that is cut short also holds
	// io.ErrUnexpectedEOF.
	ErrMalformed = errors.New("malformed message header")
	// ErrUnsupported means that the message is of a version, algorithm suite or content type that is not read here.
	ErrUnsupported = errors.New("unsupported message")
	// ErrLimit means that a length or count in the header is above the reader's Limits.
	ErrLimit = errors.New("message header exceeds a limit")
	// ErrInvalidContext means that an encryption context cannot be written.
	ErrInvalidContext = errors.New("invalid encryption context")
	// ErrAuthentication means that the header's tag or key commitment does not fit the data key: the header was changed,
	// or the key is another message's.
	ErrAuthentication = errors.New("message header failed authentication")
)

const (
	version1 = 0x01
	version2 = 0x02
	type1    = 0x80 // of version 1, "Customer Authenticated Encrypted Data"
)

// ContentType says how the body is laid out (specification: "Supported Content Types").
type ContentType byte

// The content types. Pikokms writes framed messages; the body of an unframed one is a single sealed block.
const (
	Unframed ContentType = 0x01
	Framed   ContentType = 0x02
)

// Frame lengths in bytes of plaintext.
const (
	DefaultFrameLength = 64 << 10
	MaxFrameLength     = 64 << 20
)

// EncryptedDataKey is the data key under one wrapping key.
type EncryptedDataKey struct {
	ProviderID   string // "aws-kms", or a raw key's namespace
	ProviderInfo []byte // the key ARN, or a raw AES key's name, tag length and IV
	Ciphertext   []byte
}

// Header is a message's header. A Header that Parse or Read gave back is as stored; nothing in it may be believed before
// Verify succeeds.
type Header struct {
	Suite             Suite
	MessageID         []byte // random: 32 bytes, 16 in version 1
	EncryptionContext map[string]string
	EncryptedDataKeys []EncryptedDataKey
	ContentType       ContentType
	FrameLength       uint32       // 0 in an unframed message
	Commitment        []byte       // of suites that commit: 32 bytes
	IV                [IVSize]byte // of the tag: zero in version 2
	Tag               [TagSize]byte

	raw []byte // the stored bytes, authentication included, of a header that was read or sealed
}

// Version returns the version of the message format, 1 or 2, or 0 for an unknown suite.
func (h *Header) Version() int { return int(h.Suite.algorithms().version) }

// authenticationSize is what follows the header body: the tag, and in version 1 its IV before it.
func (s Suite) authenticationSize() int {
	if s.algorithms().version == version1 {
		return IVSize + TagSize
	}
	return TagSize
}

// Limits bound what a reader takes from a header before it allocates. A zero field means its default.
type Limits struct {
	MaxSize              int // bytes of the whole header, default 256 KiB
	MaxPairs             int // encryption context pairs, default DefaultMaxPairs
	MaxEncryptedDataKeys int // default DefaultMaxEncryptedDataKeys
	MaxFrameLength       int // bytes, default 64 MiB
}

// The limits that writers keep to, so that default readers take what they write.
const (
	DefaultMaxPairs             = 1024
	DefaultMaxEncryptedDataKeys = 16
)

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.MaxSize, 256 << 10}, {&l.MaxPairs, DefaultMaxPairs}, {&l.MaxEncryptedDataKeys, DefaultMaxEncryptedDataKeys}, {&l.MaxFrameLength, MaxFrameLength}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// SniffSize is the number of first bytes that Sniff needs.
const SniffSize = 4

// Sniff reports whether b begins as a message of any version and suite of the specification does.
func Sniff(b []byte) bool { return len(b) >= SniffSize && checkStart(b) == nil }

// suiteOf returns the suite that a message's first SniffSize bytes name.
func suiteOf(b []byte) Suite {
	if b[0] == version1 {
		return Suite(binary.BigEndian.Uint16(b[2:]))
	}
	return Suite(binary.BigEndian.Uint16(b[1:]))
}

// appendStart appends the bytes that messages of the suite begin with.
func (s Suite) appendStart(b []byte) []byte {
	if s.algorithms().version == version1 {
		return append(b, version1, type1, byte(s>>8), byte(s))
	}
	return append(b, version2, byte(s>>8), byte(s))
}

// checkStart judges a message's first SniffSize bytes.
func checkStart(b []byte) error {
	if version := suiteOf(b).algorithms().version; version != 0 && version == b[0] && (b[0] != version1 || b[1] == type1) {
		return nil
	}
	if string(b[:3]) == "AgR" || string(b[:3]) == "AgV" || string(b[:2]) == "AY" {
		// Specification: client-apis/decrypt.md, "Encrypted Message Format", asks for this hint.
		return fmt.Errorf("%w: it looks like the base64 text of one; decode it first", ErrNotMessage)
	}
	return fmt.Errorf("%w: it begins with no version and algorithm suite of one, such as 02 04 78", ErrNotMessage)
}

// Scanner finds the end of a header in bytes that arrive piece by piece, and refuses lengths above its Limits before
// the bytes that they count are asked for. The zero Scanner is ready to use.
type Scanner struct {
	Limits Limits

	stage  stage
	suite  Suite
	need   int // bytes from the header's start that the stage looks at; 0 before the first Scan
	fields int // length-prefixed fields of encrypted data keys still to come
}

// stage is what a Scanner looks at next.
type stage int

const (
	atStart stage = iota
	atContextLength
	atKeyCount
	atKeyField
	atEnd
	pastEnd
)

// Scan looks at all bytes of the message so far. It returns done with the header's size, or the number of bytes, from
// the message's start, that it needs to go on.
func (s *Scanner) Scan(b []byte) (size int, done bool, err error) {
	if s.need == 0 {
		s.Limits = s.Limits.withDefaults()
		s.need = SniffSize
	}
	for s.stage != pastEnd && len(b) >= s.need {
		if err := s.look(b); err != nil {
			return 0, false, err
		}
		if s.need > s.Limits.MaxSize {
			return 0, false, fmt.Errorf("%w: over %d bytes (Limits.MaxSize)", ErrLimit, s.Limits.MaxSize)
		}
	}
	return s.need, s.stage == pastEnd, nil
}

// look goes on to the next stage. All but the first and the last end behind a length or count of two bytes.
func (s *Scanner) look(b []byte) error {
	switch s.stage {
	case atStart:
		if err := checkStart(b[:SniffSize]); err != nil {
			return err
		}
		s.suite, s.stage = suiteOf(b), atContextLength
		s.need = 1 + 2 + messageIDSize2 + 2
		if b[0] == version1 {
			s.need = 1 + 1 + 2 + messageIDSize1 + 2
		}
	case atContextLength:
		s.stage = atKeyCount
		s.need += int(binary.BigEndian.Uint16(b[s.need-2:])) + 2
	case atKeyCount:
		count := int(binary.BigEndian.Uint16(b[s.need-2:]))
		if count == 0 {
			return fmt.Errorf("%w: no encrypted data key", ErrMalformed)
		}
		if count > s.Limits.MaxEncryptedDataKeys {
			return fmt.Errorf("%w: %d encrypted data keys, at most %d are taken (Limits.MaxEncryptedDataKeys)", ErrLimit, count, s.Limits.MaxEncryptedDataKeys)
		}
		s.stage, s.fields = atKeyField, 3*count
		s.need += 2
	case atKeyField:
		s.need += int(binary.BigEndian.Uint16(b[s.need-2:]))
		if s.fields--; s.fields > 0 {
			s.need += 2
			return nil
		}
		s.stage = atEnd
		s.need += 1 + 4 + s.suite.authenticationSize()
		if s.suite.Commits() {
			s.need += commitmentSize
		} else {
			s.need += 4 + 1
		}
	case atEnd:
		s.stage = pastEnd
	}
	return nil
}

// Read reads a header from r and not a byte beyond it.
//
// The error holds ErrNotMessage, ErrMalformed, ErrUnsupported or ErrLimit, io.EOF when r is empty, or r's own error.
func Read(r io.Reader, limits Limits) (*Header, error) {
	s := Scanner{Limits: limits}
	buf := make([]byte, 0, 512) // enough for one or two keys and a small context
	for {
		need, done, err := s.Scan(buf)
		if err != nil {
			return nil, err
		}
		if done {
			return decode(buf, s.Limits)
		}
		have := len(buf)
		if need > cap(buf) {
			buf = append(make([]byte, 0, max(need, 2*cap(buf))), buf...)
		}
		buf = buf[:need]
		for empty := 0; have < need; {
			n, err := r.Read(buf[have:])
			have += n
			if have >= need {
				break // an error will come again with the next read
			}
			if err == nil && n == 0 {
				if empty++; empty == 100 {
					err = io.ErrNoProgress
				}
			}
			if err == io.EOF {
				return nil, cutShort(buf[:have])
			}
			if err != nil {
				return nil, fmt.Errorf("header: reading: %w", err)
			}
		}
	}
}

// cutShort is the error of a header that ends after these bytes.
func cutShort(have []byte) error {
	if len(have) == 0 {
		return io.EOF
	}
	if len(have) < SniffSize && !slices.ContainsFunc(Suites(), func(s Suite) bool { return bytes.HasPrefix(s.appendStart(nil), have) }) {
		return fmt.Errorf("%w: it has %d bytes", ErrNotMessage, len(have))
	}
	return fmt.Errorf("%w: cut short after %d bytes: %w", ErrMalformed, len(have), io.ErrUnexpectedEOF)
}

// Parse reads the header at the start of b and returns it with its size in bytes. The Header keeps no part of b.
// The errors are Read's; a b that ends within the header holds io.ErrUnexpectedEOF.
func Parse(b []byte, limits Limits) (*Header, int, error) {
	s := Scanner{Limits: limits}
	size, done, err := s.Scan(b)
	if err != nil {
		return nil, 0, err
	}
	if !done {
		return nil, 0, cutShort(b)
	}
	h, err := decode(append([]byte(nil), b[:size]...), s.Limits)
	if err != nil {
		return nil, 0, err
	}
	return h, size, nil
}

// decode reads a whole header whose lengths Scan has checked, and keeps raw.
func decode(raw []byte, limits Limits) (*Header, error) {
	b := raw
	take := func(n int) []byte {
		part := b[:n:n]
		b = b[n:]
		return part
	}
	field := func() []byte { return take(int(binary.BigEndian.Uint16(take(2)))) }

	var decoded struct { // in one piece
		Header
		key [1]EncryptedDataKey // where there is but one
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
	context, err := parseContext(field(), limits.MaxPairs)
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
		if reserved, ivSize := take(4), take(1); string(reserved) != "\x00\x00\x00\x00" || ivSize[0] != IVSize {
			return nil, fmt.Errorf("%w: reserved bytes % x and IV length %d, which should be zero and %d", ErrMalformed, reserved, ivSize[0], IVSize)
		}
	}
	h.FrameLength = binary.BigEndian.Uint32(take(4))
	if h.Suite.Commits() {
		h.Commitment = take(commitmentSize)
	} else {
		copy(h.IV[:], take(IVSize))
	}
	copy(h.Tag[:], take(TagSize))
	switch {
	case h.ContentType == Unframed && h.FrameLength != 0:
		return nil, fmt.Errorf("%w: frame length %d in an unframed message", ErrMalformed, h.FrameLength)
	case h.ContentType == Unframed:
		return h, nil
	case h.ContentType != Framed:
		return nil, fmt.Errorf("%w: content type %02x", ErrMalformed, byte(h.ContentType))
	case h.FrameLength == 0:
		return nil, fmt.Errorf("%w: frame length 0 in a framed message", ErrMalformed)
	case uint64(h.FrameLength) > uint64(limits.MaxFrameLength):
		return nil, fmt.Errorf("%w: frame length %d, at most %d bytes are taken (Limits.MaxFrameLength)", ErrLimit, h.FrameLength, limits.MaxFrameLength)
	}
	return h, nil
}

// Size returns the header's size in bytes, tag included, or 0 for a header that was neither read nor sealed.
func (h *Header) Size() int { return len(h.raw) }

// Bytes returns the header as stored, tag included. The caller must not change them.
func (h *Header) Bytes() []byte { return h.raw }

// Append appends the header's serialisation to b: the body from its fields, then IV, in version 1, and Tag.
// The error holds ErrInvalidContext, ErrUnsupported for an unknown suite, or ErrMalformed for fields that the format cannot
// hold.
func (h *Header) Append(b []byte) ([]byte, error) {
	b, err := h.appendBody(b)
	if err != nil {
		return nil, err
	}
	return h.appendAuthentication(b), nil
}

func (h *Header) appendAuthentication(b []byte) []byte {
	if !h.Suite.Commits() {
		b = append(b, h.IV[:]...)
	}
	return append(b, h.Tag[:]...)
}

func (h *Header) appendBody(b []byte) ([]byte, error) {
	idSize, suiteDataSize := messageIDSize2, commitmentSize
	switch h.Version() {
	case version1:
		idSize, suiteDataSize = messageIDSize1, 0
	case version2:
	default:
		return nil, fmt.Errorf("%w: algorithm suite %v", ErrUnsupported, h.Suite)
	}
	if len(h.MessageID) != idSize || len(h.Commitment) != suiteDataSize {
		return nil, fmt.Errorf("%w: a message ID of %d bytes and a commitment of %d, suite %v has %d and %d", ErrMalformed, len(h.MessageID), len(h.Commitment), h.Suite, idSize, suiteDataSize)
	}
	if n := len(h.EncryptedDataKeys); n == 0 || n > math.MaxUint16 {
		return nil, fmt.Errorf("%w: %d encrypted data keys, the format holds 1 to %d", ErrMalformed, n, math.MaxUint16)
	}
	b = slices.Grow(b, h.mostSize())
	b = h.Suite.appendStart(b)
	b = append(b, h.MessageID...)
	start := len(b)
	b, err := AppendContext(append(b, 0, 0), h.EncryptionContext)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.EncryptedDataKeys)))
	for i, k := range h.EncryptedDataKeys {
		for _, f := range [3][]byte{[]byte(k.ProviderID), k.ProviderInfo, k.Ciphertext} {
			if len(f) > math.MaxUint16 {
				return nil, fmt.Errorf("%w: encrypted data key %d has a field of %d bytes, the format holds %d", ErrMalformed, i+1, len(f), math.MaxUint16)
			}
			b = binary.BigEndian.AppendUint16(b, uint16(len(f)))
			b = append(b, f...)
		}
	}
	b = append(b, byte(h.ContentType))
	if h.Version() == version1 {
		b = append(b, 0, 0, 0, 0, IVSize)
	}
	b = binary.BigEndian.AppendUint32(b, h.FrameLength)
	return append(b, h.Commitment...), nil
}

// mostSize is at least the size in bytes of the serialisation, and a few more at most.
func (h *Header) mostSize() int {
	n := 1 + 1 + 2 + len(h.MessageID) + 2 + contextSize(h.EncryptionContext) + 2
	for _, k := range h.EncryptedDataKeys {
		n += 2 + len(k.ProviderID) + 2 + len(k.ProviderInfo) + 2 + len(k.Ciphertext)
	}
	return n + 1 + 4 + 1 + 4 + len(h.Commitment) + IVSize + TagSize
}

// Seal fills in Tag, and the bytes that Bytes and Size give, under the message's cipher. Its other fields must be final.
// The pairs of unstored are authenticated with the header but are not part of it (specification: client-apis/encrypt.md,
// "Encryption Context to Only Authenticate"). The errors are Append's.
func (h *Header) Seal(aead cipher.AEAD, unstored map[string]string) error {
	body, err := h.appendBody(nil)
	if err != nil {
		return err
	}
	additional, err := AppendContext(body, unstored)
	if err != nil {
		return err
	}
	aead.Seal(h.Tag[:0], h.IV[:], nil, additional)
	h.raw = h.appendAuthentication(body)
	return nil
}

// Verify checks the stored bytes of a header that was read, and the pairs of unstored, against its tag under the message's
// cipher. Whoever calls it has compared the key commitment first. The error holds ErrAuthentication or ErrInvalidContext.
func (h *Header) Verify(aead cipher.AEAD, unstored map[string]string) error {
	end := len(h.raw) - h.Suite.authenticationSize()
	if end < 0 {
		return fmt.Errorf("%w: it was not read from a message", ErrAuthentication)
	}
	additional, err := AppendContext(h.raw[:end:end], unstored)
	if err != nil {
		return err
	}
	if _, err := aead.Open(nil, h.IV[:], h.raw[len(h.raw)-TagSize:], additional); err != nil {
		return fmt.Errorf("%w: the tag does not fit", ErrAuthentication)
	}
	return nil
}
