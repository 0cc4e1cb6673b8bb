// Package pikov2 reads the encrypted streams that the web framework Piko wrote before it used
// pikokms. So an application can read its old objects while it writes new ones as AWS Encryption
// SDK messages. The package writes no streams.
//
// For old objects it has the place that package message has for new ones. [Sniff] distinguishes
// the two. Providers unwrap the data key (provider.PikoV2Keyring).
//
//	stream    02, header length, JSON header, chunks up to the end of the input
//	chunk     length, AES-256-GCM ciphertext and tag
//
// A chunk's IV is the first 8 bytes of the header's IV and the chunk's number.
//
// Every chunk is verified before its plaintext is released, at its place in its own stream. Beyond
// that, the format lacks what messages have:
//
//   - It has no end mark: a stream that was cut between two chunks reads as a shorter one.
//   - A stream without chunks reads as an empty plaintext, which no key authenticates.
//   - The header is not authenticated, and the data key is bound to no encryption context. So a
//     whole stream that was put in the place of another under the same provider reads without an
//     error.
//   - It has no key commitment.
//
// So read this format only while such streams are stored, and write what you read as messages.
package pikov2

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/provider"
)

const (
	version   = 2
	algorithm = "AES-256-GCM"
	keySize   = 32
	ivSize    = 12
	tagSize   = 16

	// maxHeaderSize and maxChunkSize bound what a length in the format may state, in bytes.
	maxHeaderSize = 1 << 20
	maxChunkSize  = 10 << 20

	// bufferSize fits a chunk of the size that Piko writes.
	bufferSize = 64<<10 + tagSize
)

// SniffSize is how many first bytes [Sniff] needs.
const SniffSize = 2

// Sniff reports whether b begins like a stream. No AWS Encryption SDK message does: in its version
// 2, the second byte is that of the algorithm suite, 04 or 05. In a stream it is the first byte of
// the header's length, which is always 00.
func Sniff(b []byte) bool { return len(b) >= SniffSize && b[0] == version && b[1] == 0 }

type streamHeader struct {
	KeyID            string `json:"key_id"`
	Provider         string `json:"provider"`
	IV               string `json:"iv"`
	EncryptedDataKey string `json:"edk"`
	Algorithm        string `json:"algorithm"`
	Version          int    `json:"version"`
}

// reader is an io.Reader of a stream's plaintext.
type reader struct {
	src   checked.Reader
	aeads []cipher.AEAD // ciphers that may be the stream's; only one after the first chunk
	iv    [ivSize]byte  // of the next chunk
	next  uint64        // number of the next chunk
	buf   []byte
	out   []byte // plaintext still to be read, within buf
	err   error  // the stream's first error, kept
}

// NewReader returns the plaintext of the stream that src holds. The reader also implements
// [io.WriterTo], and is for one goroutine. NewReader reads the header and asks the keyrings for the
// data key; the first that can unwraps it. It asks only keyrings that implement
// provider.PikoV2Keyring and have the type that the header names. After that no key service is
// asked. When ctx ends, reading fails.
//
// The error holds provider.ErrInvalidCiphertext if src is no such stream or is cut short; then it
// also holds io.ErrUnexpectedEOF. It holds provider.ErrUntrustedKey if no keyring has the type, or
// provider.ErrDecryptionFailed if the stream was changed or the key does not fit. Otherwise it is
// the keyrings' or src's own. Read returns the same errors.
func NewReader(ctx context.Context, src io.Reader, keyrings []provider.Unwrapper) (io.Reader, error) {
	r := &reader{src: checked.Reader{Context: ctx, Source: src}, buf: make([]byte, bufferSize)}
	h, err := r.readHeader()
	if err != nil {
		return nil, err
	}
	iv, err := base64.StdEncoding.DecodeString(h.IV)
	if err != nil || len(iv) != ivSize {
		return nil, fmt.Errorf("%w: the header's iv is not base64 of %d bytes", provider.ErrInvalidCiphertext, ivSize)
	}
	copy(r.iv[:], iv)
	if h.Version != version || h.Algorithm != "" && h.Algorithm != algorithm {
		return nil, fmt.Errorf("%w: version %d with algorithm %.40q, not %d with %q", provider.ErrInvalidCiphertext, h.Version, h.Algorithm, version, algorithm)
	}
	// Piko's local provider sealed its streams under its own key, so no data key is stored. Its
	// wrapped data keys look like its encrypted strings, so one in a header might be a string that
	// an attacker chose.
	if h.Provider == "local_aes_gcm" && h.EncryptedDataKey != "" {
		return nil, fmt.Errorf("%w: a stream of provider %q has no wrapped data key, this one has", provider.ErrInvalidCiphertext, h.Provider)
	}
	if r.aeads, err = unwrap(ctx, h, keyrings); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *reader) readHeader() (*streamHeader, error) {
	const startSize = 1 + 4
	n, err := r.fill(startSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	start := r.buf[:n]
	switch {
	case n == 0:
		return nil, fmt.Errorf("%w: the input is empty", provider.ErrInvalidCiphertext)
	case start[0] != version || n > 1 && !Sniff(start):
		return nil, fmt.Errorf("%w: it does not begin as a stream that Piko wrote, 02 00", provider.ErrInvalidCiphertext)
	case err == io.EOF:
		return nil, cutShort("its header")
	}
	length := binary.BigEndian.Uint32(start[1:])
	if length == 0 || length > maxHeaderSize {
		return nil, fmt.Errorf("%w: the header states %d bytes, not 1 to %d", provider.ErrInvalidCiphertext, length, maxHeaderSize)
	}
	if _, err := r.fill(int(length)); err == io.EOF {
		return nil, cutShort("its header")
	} else if err != nil {
		return nil, err
	}
	h := new(streamHeader)
	if json.Unmarshal(r.buf[:length], h) != nil { // its error may quote any part of the header
		return nil, fmt.Errorf("%w: the header is not the JSON object of one", provider.ErrInvalidCiphertext)
	}
	return h, nil
}

func cutShort(where string) error {
	return fmt.Errorf("%w: cut short within %s: %w", provider.ErrInvalidCiphertext, where, io.ErrUnexpectedEOF)
}

// unwrap returns the ciphers that may be the stream's. If the stream has a wrapped data key, there
// is one. If it is sealed under a provider's own key, only the first chunk shows whose.
func unwrap(ctx context.Context, h *streamHeader, keyrings []provider.Unwrapper) (aeads []cipher.AEAD, err error) {
	var failures []error
	for _, keyring := range keyrings {
		k, ok := keyring.(provider.PikoV2Keyring)
		if !ok || string(k.Type()) != h.Provider {
			continue
		}
		key, err := k.UnwrapPikoV2(ctx, h.EncryptedDataKey)
		if err == nil {
			var aead cipher.AEAD
			if aead, err = newCipher(key); err == nil {
				aeads = append(aeads, aead)
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			failures = append(failures, err)
		} else if h.EncryptedDataKey != "" {
			break
		}
	}
	switch {
	case len(aeads) > 0:
		return aeads, nil
	case len(failures) > 0:
		return nil, errors.Join(failures...)
	}
	return nil, fmt.Errorf("%w: it names key %.200q of provider %.40q; configure a provider of that kind", provider.ErrUntrustedKey, h.KeyID, h.Provider)
}

// newCipher returns the cipher of a key, and closes the key.
func newCipher(key *provider.SecureBytes) (aead cipher.AEAD, err error) {
	defer key.Close()
	err = key.WithAccess(func(k []byte) error {
		if len(k) != keySize {
			return fmt.Errorf("%w: it has %d bytes, a data key has %d", provider.ErrInvalidKey, len(k), keySize)
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			return err
		}
		aead, err = cipher.NewGCM(block)
		return err
	})
	return aead, err
}

// fill reads n bytes to the start of buf, which grows only as they arrive. At the source's end it
// returns fewer and io.EOF. So an io.ErrUnexpectedEOF is always the source's own.
func (r *reader) fill(n int) (have int, err error) {
	for have < n {
		if have == len(r.buf) {
			r.buf = append(make([]byte, 0, min(n, 2*have)), r.buf...)[:min(n, 2*have)]
		}
		m, err := r.src.ReadFull(r.buf[have:min(n, len(r.buf))])
		have += m
		if err != nil {
			return have, err
		}
	}
	return have, nil
}

// chunk reads and opens the next chunk. It returns io.EOF at the end of the input.
func (r *reader) chunk() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	plaintext, err := r.open()
	r.err = err
	return plaintext, err
}

func (r *reader) open() ([]byte, error) {
	place := func() string { return fmt.Sprintf("chunk %d", r.next) }
	n, err := r.fill(4)
	if err == io.EOF && n > 0 {
		return nil, cutShort(place())
	}
	if err != nil {
		return nil, err
	}
	if r.next > math.MaxUint32 {
		return nil, fmt.Errorf("%w: over 2³² chunks", provider.ErrInvalidCiphertext)
	}
	length := binary.BigEndian.Uint32(r.buf)
	if length < tagSize || length > maxChunkSize {
		return nil, fmt.Errorf("%w: %s states %d bytes, not %d to %d", provider.ErrInvalidCiphertext, place(), length, tagSize, maxChunkSize)
	}
	if _, err := r.fill(int(length)); err == io.EOF {
		return nil, cutShort(place())
	} else if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(r.iv[ivSize-4:], uint32(r.next))
	sealed := r.buf[:length]
	for i, aead := range r.aeads {
		dst := sealed[:0]
		if i < len(r.aeads)-1 {
			dst = nil // with several keys, a failed one must not overwrite the chunk
		}
		plaintext, err := aead.Open(dst, r.iv[:], sealed, nil)
		if err != nil {
			continue
		}
		r.aeads = r.aeads[i : i+1]
		r.next++
		return plaintext, nil
	}
	return nil, fmt.Errorf("%w: %s does not open: another key, or changed, moved or missing data", provider.ErrDecryptionFailed, place())
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.out) == 0 {
		var err error
		if r.out, err = r.chunk(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// WriteTo makes no copy.
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if len(r.out) > 0 {
			n, err := checked.Write(w, r.out)
			written += int64(n)
			r.out = r.out[n:]
			if err != nil {
				return written, err
			}
		}
		if r.out, err = r.chunk(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
	}
}
