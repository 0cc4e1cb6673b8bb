// Package header reads and writes the header of an AWS Encryption SDK message: what a reader must know before it can ask
// for the data key, and what is checked before a byte of the body is opened.
//
// It stands first in every message and is followed by the frames of package frame. It does no I/O beyond one io.Reader
// and knows nothing of key services.
//
// The format is the specification's data-format/message-header.md, version 2 with algorithm suite 0x0478.
package header

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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

const version2 = 0x02

// ContentType says how the body is laid out (specification: "Supported Content Types").
type ContentType byte

// Framed is the content type of every message that pikokms writes.
const Framed ContentType = 0x02

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
	MessageID         [MessageIDSize]byte
	EncryptionContext map[string]string
	EncryptedDataKeys []EncryptedDataKey
	ContentType       ContentType
	FrameLength       uint32
	Commitment        [CommitmentSize]byte
	Tag               [TagSize]byte

	raw []byte // the stored bytes, tag included, of a header that was read
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
func Sniff(b []byte) bool {
	if len(b) >= 3 && b[0] == version2 {
		suite := Suite(binary.BigEndian.Uint16(b[1:]))
		return suite == AES256GCMHKDFSHA512CommitKey || suite == 0x0578
	}
	if len(b) >= 4 && b[0] == 0x01 && b[1] == 0x80 {
		suite := Suite(binary.BigEndian.Uint16(b[2:]))
		return suite < 0x0400 && otherSuites[suite] != ""
	}
	return false
}

// checkStart judges a message's first SniffSize bytes.
func checkStart(b []byte) error {
	switch {
	case b[0] == version2 && Suite(binary.BigEndian.Uint16(b[1:])) == AES256GCMHKDFSHA512CommitKey:
		return nil
	case Sniff(b) && b[0] == version2:
		return fmt.Errorf("%w: algorithm suite %v; this version reads %v", ErrUnsupported, Suite(binary.BigEndian.Uint16(b[1:])), AES256GCMHKDFSHA512CommitKey)
	case Sniff(b):
		return fmt.Errorf("%w: message format 1, algorithm suite %v; this version reads %v", ErrUnsupported, Suite(binary.BigEndian.Uint16(b[2:])), AES256GCMHKDFSHA512CommitKey)
	case string(b[:3]) == "AgR" || string(b[:3]) == "AgV" || string(b[:2]) == "AY":
		// Specification: client-apis/decrypt.md, "Encrypted Message Format", asks for this hint.
		return fmt.Errorf("%w: it looks like the base64 text of one; decode it first", ErrNotMessage)
	}
	return fmt.Errorf("%w: it does not begin with the bytes 02 04 78", ErrNotMessage)
}

// Scanner finds the end of a header in bytes that arrive piece by piece, and refuses lengths above its Limits before
// the bytes that they count are asked for. The zero Scanner is ready to use.
type Scanner struct {
	Limits Limits

	stage  func(*Scanner, []byte) error
	need   int // bytes from the header's start that the next stage looks at
	fields int // length-prefixed fields of encrypted data keys still to come
	done   bool
}

// Scan looks at all bytes of the message so far. It returns done with the header's size, or the number of bytes, from
// the message's start, that it needs to go on.
func (s *Scanner) Scan(b []byte) (size int, done bool, err error) {
	if s.stage == nil {
		s.Limits = s.Limits.withDefaults()
		s.stage, s.need = (*Scanner).scanStart, SniffSize
	}
	for !s.done && len(b) >= s.need {
		if err := s.stage(s, b); err != nil {
			return 0, false, err
		}
		if s.need > s.Limits.MaxSize {
			return 0, false, fmt.Errorf("%w: over %d bytes (Limits.MaxSize)", ErrLimit, s.Limits.MaxSize)
		}
	}
	return s.need, s.done, nil
}

func (s *Scanner) scanStart(b []byte) error {
	if err := checkStart(b[:SniffSize]); err != nil {
		return err
	}
	s.stage, s.need = (*Scanner).scanContextLength, 1+2+MessageIDSize+2
	return nil
}

func (s *Scanner) scanContextLength(b []byte) error {
	s.stage = (*Scanner).scanKeyCount
	s.need += int(binary.BigEndian.Uint16(b[s.need-2:])) + 2
	return nil
}

func (s *Scanner) scanKeyCount(b []byte) error {
	count := int(binary.BigEndian.Uint16(b[s.need-2:]))
	if count == 0 {
		return fmt.Errorf("%w: no encrypted data key", ErrMalformed)
	}
	if count > s.Limits.MaxEncryptedDataKeys {
		return fmt.Errorf("%w: %d encrypted data keys, at most %d are taken (Limits.MaxEncryptedDataKeys)", ErrLimit, count, s.Limits.MaxEncryptedDataKeys)
	}
	s.stage, s.fields = (*Scanner).scanKeyField, 3*count
	s.need += 2
	return nil
}

func (s *Scanner) scanKeyField(b []byte) error {
	s.need += int(binary.BigEndian.Uint16(b[s.need-2:]))
	if s.fields--; s.fields > 0 {
		s.need += 2
		return nil
	}
	s.stage = (*Scanner).scanEnd
	s.need += 1 + 4 + CommitmentSize + TagSize
	return nil
}

func (s *Scanner) scanEnd([]byte) error {
	s.done = true
	return nil
}

// Read reads a header from r and not a byte beyond it.
//
// The error holds ErrNotMessage, ErrMalformed, ErrUnsupported or ErrLimit, io.EOF when r is empty, or r's own error.
func Read(r io.Reader, limits Limits) (*Header, error) {
	s := Scanner{Limits: limits}
	buf := make([]byte, 0, 1024)
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
	if len(have) < SniffSize && (have[0] != version2 || len(have) > 1 && have[1] != byte(AES256GCMHKDFSHA512CommitKey>>8)) {
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

	h := &Header{raw: raw}
	take(1)
	h.Suite = Suite(binary.BigEndian.Uint16(take(2)))
	copy(h.MessageID[:], take(MessageIDSize))
	context, err := parseContext(field(), limits.MaxPairs)
	if err != nil {
		return nil, err
	}
	h.EncryptionContext = context
	h.EncryptedDataKeys = make([]EncryptedDataKey, binary.BigEndian.Uint16(take(2)))
	for i := range h.EncryptedDataKeys {
		h.EncryptedDataKeys[i] = EncryptedDataKey{ProviderID: string(field()), ProviderInfo: field(), Ciphertext: field()}
	}
	h.ContentType = ContentType(take(1)[0])
	h.FrameLength = binary.BigEndian.Uint32(take(4))
	copy(h.Commitment[:], take(CommitmentSize))
	copy(h.Tag[:], take(TagSize))
	switch {
	case h.ContentType == 0x01:
		return nil, fmt.Errorf("%w: unframed content; this version reads framed messages", ErrUnsupported)
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

// Append appends the header's serialisation to b: the body from its fields, then Tag.
// The error holds ErrInvalidContext, or ErrMalformed for fields that the format cannot hold.
func (h *Header) Append(b []byte) ([]byte, error) {
	b, err := h.appendBody(b)
	if err != nil {
		return nil, err
	}
	return append(b, h.Tag[:]...), nil
}

func (h *Header) appendBody(b []byte) ([]byte, error) {
	if h.Suite != AES256GCMHKDFSHA512CommitKey {
		return nil, fmt.Errorf("%w: writing algorithm suite %v", ErrUnsupported, h.Suite)
	}
	if n := len(h.EncryptedDataKeys); n == 0 || n > math.MaxUint16 {
		return nil, fmt.Errorf("%w: %d encrypted data keys, the format holds 1 to %d", ErrMalformed, n, math.MaxUint16)
	}
	b = append(b, version2)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Suite))
	b = append(b, h.MessageID[:]...)
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
	b = binary.BigEndian.AppendUint32(b, h.FrameLength)
	return append(b, h.Commitment[:]...), nil
}

// headerIV is the IV of the header's tag (specification: data-format/message-header.md, "Header Body Version 2.0": zero).
var headerIV [IVSize]byte

// Seal fills in Tag, and the bytes that Bytes and Size give, under the message's cipher. Its other fields must be final.
func (h *Header) Seal(aead cipher.AEAD) error {
	body, err := h.appendBody(nil)
	if err != nil {
		return err
	}
	copy(h.Tag[:], aead.Seal(nil, headerIV[:], nil, body))
	h.raw = append(body, h.Tag[:]...)
	return nil
}

// Verify checks the stored bytes of a header that was read against its tag, under the message's cipher. Whoever calls it
// has compared the key commitment first. The error is ErrAuthentication.
func (h *Header) Verify(aead cipher.AEAD) error {
	if len(h.raw) < TagSize {
		return fmt.Errorf("%w: it was not read from a message", ErrAuthentication)
	}
	body, tag := h.raw[:len(h.raw)-TagSize], h.raw[len(h.raw)-TagSize:]
	if _, err := aead.Open(nil, headerIV[:], tag, body); err != nil {
		return fmt.Errorf("%w: the tag does not fit", ErrAuthentication)
	}
	return nil
}
