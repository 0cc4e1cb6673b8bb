// Package adversary changes messages and breaks what stands around them, as an attacker or a bad
// day does. Tests of every way in and out use it.
//
// [Message.Mutate] makes messages that no writer made: [Kinds] lists how. [Calls] fails the call of
// a source, a destination, a storage or a key service whose turn it is, and [EachCall] gives every
// call its turn. [Source] ends in the ways in which connections do.
package adversary

import (
	"encoding/binary"
	"errors"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/gcm"
)

// Message is a sealed message in its parts.
type Message struct {
	Plaintext []byte
	Sealed    []byte
	Head      []byte   // with its tag
	Frames    [][]byte // the last one is the final frame; of an unframed message, its body
	Footer    []byte   // of a signed message

	fields []field
	spans  map[string]span
}

// field is a number within a message: a length, a count, or a frame's number.
type field struct{ at, size int }

// span is a part of the header.
type span struct{ from, to int }

var errCut = errors.New("adversary: the message ends within a frame")

// Split returns a whole message in its parts.
func Split(sealed, plaintext []byte) (*Message, error) {
	h, size, err := header.Parse(sealed, header.Limits{})
	if err != nil {
		return nil, err
	}
	m := &Message{Plaintext: plaintext, Sealed: sealed, Head: sealed[:size:size], spans: make(map[string]span)}
	m.walkHeader(h)
	at := size
	end := len(sealed)
	if h.ContentType == header.Unframed {
		end = min(end, size+frame.UnframedOverhead+len(plaintext))
		m.fields = append(m.fields, field{size + gcm.IVSize, 8})
		m.Frames, at = [][]byte{sealed[size:end:end]}, end
	}
	for at < end {
		if end-at < frame.RegularOverhead {
			return nil, errCut
		}
		m.fields = append(m.fields, field{at, 4})
		n := frame.RegularOverhead + int(h.FrameLength)
		final := binary.BigEndian.Uint32(sealed[at:]) == 1<<32-1
		if final {
			if end-at < frame.FinalOverhead {
				return nil, errCut
			}
			m.fields = append(m.fields, field{at + 4, 4}, field{at + 20, 4})
			n = frame.FinalOverhead + int(binary.BigEndian.Uint32(sealed[at+20:]))
		}
		if at+n > end {
			return nil, errCut
		}
		m.Frames = append(m.Frames, sealed[at:at+n:at+n])
		if at += n; final {
			break
		}
	}
	m.Footer = sealed[at:]
	return m, nil
}

// walkHeader notes where the header's parts and numbers are.
func (m *Message) walkHeader(h *header.Header) {
	number := func(at, size int) int {
		m.fields = append(m.fields, field{at, size})
		n := 0
		for _, b := range m.Head[at : at+size] {
			n = n<<8 | int(b)
		}
		return n
	}
	start := 3
	if h.Version() == 1 {
		start = 4
	}
	m.spans["message ID"] = span{start, start + len(h.MessageID)}
	contextAt := start + len(h.MessageID)
	contextEnd := contextAt + 2 + number(contextAt, 2)
	m.spans["encryption context"] = span{contextAt, contextEnd}
	if contextEnd > contextAt+2 {
		at := contextAt + 4
		for range 2 * number(contextAt+2, 2) {
			at += 2 + number(at, 2)
		}
	}
	at := contextEnd + 2
	for range 3 * number(contextEnd, 2) {
		at += 2 + number(at, 2)
	}
	m.spans["encrypted data keys"] = span{contextEnd, at}
	rest := len(m.Head) - gcm.TagSize
	if h.Version() == 1 {
		number(at+1+4, 1)
		number(at+1+4+1, 4)
		rest -= gcm.IVSize
	} else {
		number(at+1, 4)
		m.spans["commitment"] = span{at + 5, rest}
	}
	m.spans["header tag"] = span{rest, len(m.Head)}
}
