// Package header reads and writes the header of an AWS Encryption SDK message. The header contains
// what a reader needs to ask for the data key, and what it checks before it opens the body.
//
// The header is the first part of a message. Frames of ciphertext follow it. The package does no
// I/O beyond one [io.Reader] and knows nothing of key services.
//
// The format is that of the specification's data-format/message-header.md. The package reads
// versions 1 and 2 with all algorithm suites. Pikokms writes version 2.
package header

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"piko.sh/pikokms/internal/gcm"
)

var (
	// ErrNotMessage means that the input does not begin as an AWS Encryption SDK message does.
	ErrNotMessage = errors.New("not an AWS Encryption SDK message")
	// ErrMalformed means that the input begins like a message but violates the format. For a header
	// that is cut short, the error also holds [io.ErrUnexpectedEOF].
	ErrMalformed = errors.New("malformed message header")
	// ErrUnsupported means that pikokms does not support the message's version, algorithm suite or
	// content type.
	ErrUnsupported = errors.New("unsupported message")
	// ErrInvalidContext means that an encryption context cannot be written.
	ErrInvalidContext = errors.New("invalid encryption context")
	// ErrAuthentication means that the header's tag or key commitment does not match the data key:
	// the header was changed, or the data key is another message's.
	ErrAuthentication = errors.New("message header failed authentication")
	// ErrSignature means that a message's signature does not verify: the message was changed.
	ErrSignature = errors.New("message signature does not verify")
)

const (
	version1 = 0x01
	version2 = 0x02
	type1    = 0x80 // of version 1, "Customer Authenticated Encrypted Data"
)

// ContentType says how the body is laid out (specification: data-format/message-header.md,
// "Supported Content Types").
type ContentType byte

// The content types. Pikokms writes framed messages. The body of an unframed message is one sealed
// block.
const (
	Unframed ContentType = 0x01
	Framed   ContentType = 0x02
)

// DefaultFrameLength is the number of bytes of plaintext in a frame that pikokms writes unless
// message.Encrypter.FrameLength says otherwise.
const DefaultFrameLength = 64 << 10

// EncryptedDataKey is the data key, wrapped under one wrapping key.
type EncryptedDataKey struct {
	ProviderID   string // "aws-kms", or a raw key's namespace
	ProviderInfo []byte // the key ARN, or a raw AES key's name, tag length and IV
	Ciphertext   []byte
}

// Header is a message's header. [Parse] and [Read] return it as it was stored. Nothing in it is
// authenticated before [Header.Verify] succeeds.
type Header struct {
	Suite             Suite
	MessageID         []byte // random: 32 bytes, or 16 in version 1
	EncryptionContext map[string]string
	EncryptedDataKeys []EncryptedDataKey
	ContentType       ContentType
	FrameLength       uint32 // 0 in an unframed message
	Commitment        []byte // 32 bytes; only of suites with key commitment

	iv  [gcm.IVSize]byte // of the tag: zeros in version 2
	tag [gcm.TagSize]byte
	raw []byte // stored bytes with the authentication; set when read or sealed
}

// Version returns the version of the message format, 1 or 2, or 0 for an unknown suite.
func (h *Header) Version() int { return int(h.Suite.algorithms().version) }

// authenticationSize returns the size in bytes of the part after the header body: the tag, and in
// version 1 its IV before it.
func (s Suite) authenticationSize() int {
	if s.algorithms().version == version1 {
		return gcm.IVSize + gcm.TagSize
	}
	return gcm.TagSize
}

// Size returns the header's size in bytes with the tag, or 0 if it was neither read nor sealed.
func (h *Header) Size() int { return len(h.raw) }

// Bytes returns the stored header with the tag. The caller must not change it.
func (h *Header) Bytes() []byte { return h.raw }

// appendAuthentication appends the part after the header body.
func (h *Header) appendAuthentication(b []byte) []byte {
	if !h.Suite.Commits() {
		b = append(b, h.iv[:]...)
	}
	return append(b, h.tag[:]...)
}

// appendBody appends the serialisation of the fields up to the header's authentication.
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
	b = slices.Grow(b, h.storedSize())
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
		b = append(b, 0, 0, 0, 0, gcm.IVSize)
	}
	b = binary.BigEndian.AppendUint32(b, h.FrameLength)
	return append(b, h.Commitment...), nil
}

// storedSize returns the size in bytes of the serialised header with its authentication.
func (h *Header) storedSize() int {
	n := 1 + 2 + messageIDSize2 + 2 + contextSize(h.EncryptionContext) + 2
	for _, k := range h.EncryptedDataKeys {
		n += 2 + len(k.ProviderID) + 2 + len(k.ProviderInfo) + 2 + len(k.Ciphertext)
	}
	n += 1 + 4 + commitmentSize
	if h.Version() == version1 {
		n += 1 + messageIDSize1 - messageIDSize2 + 4 + 1 - commitmentSize
	}
	return n + h.Suite.authenticationSize()
}

// Seal computes the header's tag under the message's cipher. It sets the bytes that
// [Header.Bytes] and [Header.Size] return. All fields must be final. The pairs of unstored
// are authenticated with the header but are not part of it (specification: client-apis/encrypt.md,
// "Encryption Context to Only Authenticate").
//
// The error holds [ErrLimit] if readers with default [Limits] would refuse the header. It holds
// [ErrInvalidContext], [ErrUnsupported] for an unknown suite, or [ErrMalformed] if the fields do
// not fit the format.
func (h *Header) Seal(aead cipher.AEAD, unstored map[string]string) error {
	if err := (Limits{}).Check(h); err != nil {
		return err
	}
	body, err := h.appendBody(nil)
	if err != nil {
		return err
	}
	additional, err := AppendContext(body, unstored)
	if err != nil {
		return err
	}
	aead.Seal(h.tag[:0], h.iv[:], nil, additional)
	h.raw = h.appendAuthentication(body)
	return nil
}

// Verify checks the tag of a header that was read, under the message's cipher. The tag
// authenticates the stored bytes and the pairs of unstored. The caller must have compared the key
// commitment before. The error holds [ErrAuthentication] or [ErrInvalidContext].
func (h *Header) Verify(aead cipher.AEAD, unstored map[string]string) error {
	end := len(h.raw) - h.Suite.authenticationSize()
	if end < 0 {
		return fmt.Errorf("%w: it was not read from a message", ErrAuthentication)
	}
	additional, err := AppendContext(h.raw[:end:end], unstored)
	if err != nil {
		return err
	}
	if _, err := aead.Open(nil, h.iv[:], h.raw[len(h.raw)-gcm.TagSize:], additional); err != nil {
		return fmt.Errorf("%w: the tag does not fit", ErrAuthentication)
	}
	return nil
}
