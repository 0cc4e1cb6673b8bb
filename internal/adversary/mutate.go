package adversary

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
)

// Kind is a way to change a message. Change returns nil for a message that can't be changed so.
type Kind struct {
	Name   string
	Change func(r *rand.Rand, m, other *Message) []byte
}

// Kinds are all ways in which [Message.Mutate] changes messages. None of them takes a key, since an
// attacker has none.
var Kinds = []Kind{
	{"a bit flipped", func(r *rand.Rand, m, _ *Message) []byte {
		b := bytes.Clone(m.Sealed)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	}},
	{"bytes overwritten", func(r *rand.Rand, m, _ *Message) []byte {
		b := bytes.Clone(m.Sealed)
		for range 1 + r.IntN(8) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		return b
	}},
	{"cut", func(r *rand.Rand, m, _ *Message) []byte { return bytes.Clone(m.Sealed[:r.IntN(len(m.Sealed))]) }},
	{"beginning dropped", func(r *rand.Rand, m, _ *Message) []byte {
		return bytes.Clone(m.Sealed[1+r.IntN(len(m.Sealed)-1):])
	}},
	{"bytes dropped", func(r *rand.Rand, m, _ *Message) []byte {
		at := r.IntN(len(m.Sealed))
		return slices.Delete(bytes.Clone(m.Sealed), at, min(len(m.Sealed), at+1+r.IntN(40)))
	}},
	{"bytes inserted", func(r *rand.Rand, m, _ *Message) []byte {
		return slices.Insert(bytes.Clone(m.Sealed), r.IntN(len(m.Sealed)+1), noise(r, 1+r.IntN(40))...)
	}},
	{"bytes repeated", func(r *rand.Rand, m, _ *Message) []byte {
		from := r.IntN(len(m.Sealed))
		to := min(len(m.Sealed), from+1+r.IntN(100))
		return slices.Insert(bytes.Clone(m.Sealed), to, m.Sealed[from:to]...)
	}},
	{"bytes appended", func(r *rand.Rand, m, _ *Message) []byte {
		return append(bytes.Clone(m.Sealed), noise(r, 1+r.IntN(40))...)
	}},
	{"cut at the end of a frame", func(r *rand.Rand, m, _ *Message) []byte {
		return m.with(m.Frames[:r.IntN(len(m.Frames))], nil)
	}},
	{"two frames swapped", func(r *rand.Rand, m, _ *Message) []byte {
		frames := slices.Clone(m.Frames)
		i, j := r.IntN(len(frames)), r.IntN(len(frames))
		frames[i], frames[j] = frames[j], frames[i]
		return m.with(frames, m.Footer)
	}},
	{"a frame repeated", func(r *rand.Rand, m, _ *Message) []byte {
		at := r.IntN(len(m.Frames) + 1)
		return m.with(slices.Insert(slices.Clone(m.Frames), at, m.Frames[r.IntN(len(m.Frames))]), m.Footer)
	}},
	{"frames dropped", func(r *rand.Rand, m, _ *Message) []byte {
		from := r.IntN(len(m.Frames))
		return m.with(slices.Delete(slices.Clone(m.Frames), from, from+1+r.IntN(len(m.Frames)-from)), m.Footer)
	}},
	{"a frame of another message", func(r *rand.Rand, m, other *Message) []byte {
		frames := slices.Clone(m.Frames)
		frames[r.IntN(len(frames))] = other.Frames[r.IntN(len(other.Frames))]
		return m.with(frames, m.Footer)
	}},
	{"the rest of another message", func(r *rand.Rand, m, other *Message) []byte {
		from := r.IntN(len(m.Frames))
		rest := other.Frames[min(from, len(other.Frames)-1):]
		return m.with(append(slices.Clone(m.Frames[:from]), rest...), other.Footer)
	}},
	{"another message's header", func(_ *rand.Rand, m, other *Message) []byte {
		return slices.Concat(other.Head, slices.Concat(m.Frames...), m.Footer)
	}},
	{"a part of another header", func(r *rand.Rand, m, other *Message) []byte {
		names := []string{"message ID", "encryption context", "encrypted data keys", "commitment", "header tag"}
		name := names[r.IntN(len(names))]
		own, theirs := m.spans[name], other.spans[name]
		return slices.Concat(m.Sealed[:own.from], other.Sealed[theirs.from:theirs.to], m.Sealed[own.to:])
	}},
	{"another footer", func(r *rand.Rand, m, other *Message) []byte {
		if len(m.Footer) == 0 {
			return nil
		}
		if r.IntN(2) == 0 {
			return m.with(m.Frames, other.Footer)
		}
		footer := bytes.Clone(m.Footer)
		footer[r.IntN(len(footer))] ^= byte(1 + r.IntN(255))
		return m.with(m.Frames, footer)
	}},
	{"a regular frame as the final one", func(r *rand.Rand, m, _ *Message) []byte {
		if len(m.Frames) < 2 {
			return nil
		}
		i := r.IntN(len(m.Frames) - 1)
		f := m.Frames[i]
		final := append([]byte{0xff, 0xff, 0xff, 0xff}, f[:4+gcm.IVSize]...)
		final = binary.BigEndian.AppendUint32(final, uint32(len(f)-4-gcm.IVSize-gcm.TagSize))
		return m.with(append(slices.Clone(m.Frames[:i]), append(final, f[4+gcm.IVSize:]...)), m.Footer)
	}},
	{"a number changed", func(r *rand.Rand, m, _ *Message) []byte {
		b := bytes.Clone(m.Sealed)
		f := m.fields[r.IntN(len(m.fields))]
		number := b[f.at : f.at+f.size]
		switch r.IntN(6) {
		case 0: // the largest number
			copy(number, bytes.Repeat([]byte{0xff}, f.size))
		case 1:
			clear(number)
		case 2: // the largest signed number
			copy(number, bytes.Repeat([]byte{0xff}, f.size))
			number[0] = 0x7f
		case 3:
			number[f.size-1]++
		case 4:
			number[f.size-1]--
		default:
			copy(number, noise(r, f.size))
		}
		return b
	}},
	{"the context's pairs repeated, unsorted or no UTF-8", func(r *rand.Rand, m, _ *Message) []byte {
		return m.withContext(HostileContext(r))
	}},
	{"data keys repeated or hostile", func(r *rand.Rand, m, other *Message) []byte {
		return m.withKeys(hostileKeys(r, m, other))
	}},
	{"another suite or version", func(r *rand.Rand, m, _ *Message) []byte {
		b := bytes.Clone(m.Sealed)
		suites := header.Suites()
		suite := suites[r.IntN(len(suites))]
		at := 1
		if b[0] == 1 {
			at = 2
		}
		if r.IntN(4) == 0 {
			b[0] ^= 3
		}
		binary.BigEndian.PutUint16(b[at:], uint16(suite))
		return b
	}},
	{"two messages one after the other", func(_ *rand.Rand, m, other *Message) []byte {
		return slices.Concat(m.Sealed, other.Sealed)
	}},
	{"changed twice", nil}, // by any two of the others
}

// Mutate changes m by one of [Kinds], which r chooses, and returns that kind and the result. Some
// kinds take parts of other, a message under the same key. The result differs from both messages.
func (m *Message) Mutate(r *rand.Rand, other *Message) (Kind, []byte) {
	for {
		kind := Kinds[r.IntN(len(Kinds))]
		var changed []byte
		if kind.Change != nil {
			changed = kind.Change(r, m, other)
		} else {
			changed = m.twice(r, other)
		}
		if changed != nil && !bytes.Equal(changed, m.Sealed) && !bytes.Equal(changed, other.Sealed) {
			return kind, changed
		}
	}
}

// bytesOnly is how many of the first Kinds change only the sealed bytes, and do not need the
// message's parts.
const bytesOnly = 8

func (m *Message) twice(r *rand.Rand, other *Message) []byte {
	changed := Kinds[r.IntN(len(Kinds)-1)].Change(r, m, other)
	if len(changed) < 2 {
		return nil
	}
	return Kinds[r.IntN(bytesOnly)].Change(r, &Message{Sealed: changed}, other)
}

func (m *Message) with(frames [][]byte, footer []byte) []byte {
	return slices.Concat(m.Head, slices.Concat(frames...), footer)
}

// withContext returns the message with another serialised encryption context, of any bytes.
func (m *Message) withContext(context []byte) []byte {
	s := m.spans["encryption context"]
	length := binary.BigEndian.AppendUint16(nil, uint16(len(context)))
	return slices.Concat(m.Sealed[:s.from], length, context, m.Sealed[s.to:])
}

func (m *Message) withKeys(keys []byte) []byte {
	s := m.spans["encrypted data keys"]
	return slices.Concat(m.Sealed[:s.from], keys, m.Sealed[s.to:])
}

// HostileContext returns a serialised encryption context that no writer makes.
func HostileContext(r *rand.Rand) []byte {
	pairs := [][2]string{
		{"a", "1"}, {"tenant", "acme"}, {"tenant", "other"}, {"tenant", "acme"}, {"piko-use", "object"}, {"piko-use", "string"},
		{"\xff\xfe", "1"}, {"b", "\xc3\x28"}, {"\xed\xa0\x80", "a surrogate"}, {"c\x00", "\xc0\x80"}, {"", ""}, {"aws-crypto-public-key", "AA=="},
	}
	count := 1 + r.IntN(6)
	stated := count
	if r.IntN(5) == 0 {
		stated = r.IntN(1 << 16)
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(stated))
	for range count {
		for _, part := range pairs[r.IntN(len(pairs))] {
			b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
			b = append(b, part...)
		}
	}
	if r.IntN(10) == 0 {
		b = append(b, noise(r, 1+r.IntN(5))...)
	}
	return b
}

// ForeignARN is the ARN of a key that no test has. Asking a key service about it would be a
// mistake.
const ForeignARN = "arn:aws:kms:us-east-1:999999999999:key/00000000-0000-0000-0000-000000000000"

// hostileKeys returns serialised encrypted data keys, with their count.
func hostileKeys(r *rand.Rand, m, other *Message) []byte {
	own := m.spans["encrypted data keys"]
	theirs := other.spans["encrypted data keys"]
	mine, foreign := m.Sealed[own.from+2:own.to], other.Sealed[theirs.from+2:theirs.to]
	count := int(binary.BigEndian.Uint16(m.Sealed[own.from:]))
	var b []byte
	switch r.IntN(6) {
	case 0: // repeated many times
		times := 2 + r.IntN(40)
		b, count = bytes.Repeat(mine, times), count*times
	case 1: // those of another message before ours
		b, count = slices.Concat(foreign, mine), count+int(binary.BigEndian.Uint16(other.Sealed[theirs.from:]))
	case 2:
		b, count = slices.Concat(mine, foreign), count+int(binary.BigEndian.Uint16(other.Sealed[theirs.from:]))
	case 3: // of a key service's key that is not ours
		b, count = slices.Concat(appendKey(nil, "aws-kms", ForeignARN, noise(r, 184)), mine), count+1
	case 4: // as large as the format holds
		b, count = appendKey(nil, "aws-kms", string(bytes.Repeat([]byte{'a'}, 1<<16-1)), noise(r, 1<<16-1)), 1
	default: // empty ones
		b, count = appendKey(bytes.Clone(mine), "", "", nil), count+1
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(count)), b...)
}

func appendKey(b []byte, id, info string, ciphertext []byte) []byte {
	for _, part := range [][]byte{[]byte(id), []byte(info), ciphertext} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	return b
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
