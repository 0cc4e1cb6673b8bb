package header

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// reservedPrefix begins the encryption context keys that the specification keeps for itself.
const reservedPrefix = "aws-crypto-"

// PublicKeyName is the encryption context key under which a signed message carries its
// verification key: the base64 text of the compressed curve point (specification:
// framework/structures.md; SEC 1, section 2.3.3).
const PublicKeyName = "aws-crypto-public-key"

// AppendContext appends the serialised encryption context to b: nothing if it is empty, otherwise a
// count and length-prefixed pairs sorted by key bytes (specification: framework/structures.md,
// "Serialization"). A raw AES key wraps a data key with these bytes as additional data.
//
// The error holds [ErrInvalidContext] if the context does not fit the format.
func AppendContext(b []byte, context map[string]string) ([]byte, error) {
	if len(context) == 0 {
		return b, nil
	}
	if err := checkFormat(context); err != nil {
		return nil, err
	}
	keys := make([]string, 0, 16) // usually enough, and then on the stack
	for k := range context {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b = slices.Grow(b, contextSize(context))
	b = binary.BigEndian.AppendUint16(b, uint16(len(keys)))
	for _, k := range keys {
		for _, s := range [2]string{k, context[k]} {
			b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
			b = append(b, s...)
		}
	}
	return b, nil
}

// contextSize returns how many bytes AppendContext appends.
func contextSize(context map[string]string) int {
	if len(context) == 0 {
		return 0
	}
	n := 2
	for k, v := range context {
		n += 2 + len(k) + 2 + len(v)
	}
	return n
}

// checkFormat checks that the format can hold an encryption context: that it is UTF-8 and fits the
// format's 16-bit lengths.
func checkFormat(context map[string]string) error {
	for k, v := range context {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: pair %.40q is not UTF-8", ErrInvalidContext, k)
		}
		if n := max(len(k), len(v)); n > math.MaxUint16 {
			return fmt.Errorf("%w: pair %.40q has %d bytes in one part, the format holds %d", ErrInvalidContext, k, n, math.MaxUint16)
		}
	}
	if n := contextSize(context); n > math.MaxUint16 {
		return fmt.Errorf("%w: %d bytes serialised, the format holds %d", ErrInvalidContext, n, math.MaxUint16)
	}
	return nil
}

// CheckContext checks that a caller may encrypt under this context: it fits the format, has at most
// 1,024 pairs, the default of [Limits], and no key is empty or reserved. The error holds
// [ErrInvalidContext].
func CheckContext(context map[string]string) error {
	if len(context) > defaultMaxPairs {
		return fmt.Errorf("%w: %d pairs, readers take %d", ErrInvalidContext, len(context), defaultMaxPairs)
	}
	for k := range context {
		if k == "" {
			return fmt.Errorf("%w: a key is empty", ErrInvalidContext)
		}
		if strings.HasPrefix(k, reservedPrefix) {
			return fmt.Errorf("%w: key %.80q begins with %q, which the AWS Encryption SDK reserves", ErrInvalidContext, k, reservedPrefix)
		}
	}
	return checkFormat(context)
}

// pairCount returns how many pairs a serialised encryption context states, or 0 if it is too short
// to state any.
func pairCount(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

// parseContext reads a serialised context whose number of pairs a Scanner has checked. Each context
// has only one serialisation that it accepts, so that no two headers mean the same.
func parseContext(b []byte) (map[string]string, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < 2 {
		return nil, fmt.Errorf("%w: the encryption context has %d byte", ErrMalformed, len(b))
	}
	count := pairCount(b)
	b = b[2:]
	if count == 0 {
		return nil, fmt.Errorf("%w: the encryption context counts no pairs but is not empty", ErrMalformed)
	}
	if count > len(b)/4 {
		return nil, fmt.Errorf("%w: %d encryption context pairs cannot fit %d bytes", ErrMalformed, count, len(b))
	}
	context := make(map[string]string, count)
	previous := ""
	for i := range count {
		var pair [2]string
		for j := range pair {
			if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
				return nil, fmt.Errorf("%w: encryption context pair %d runs over its end", ErrMalformed, i+1)
			}
			n := int(binary.BigEndian.Uint16(b))
			pair[j] = string(b[2 : 2+n])
			b = b[2+n:]
			if !utf8.ValidString(pair[j]) {
				return nil, fmt.Errorf("%w: encryption context pair %d is not UTF-8", ErrMalformed, i+1)
			}
		}
		if i > 0 && pair[0] <= previous {
			return nil, fmt.Errorf("%w: encryption context keys are not sorted and unique at pair %d", ErrMalformed, i+1)
		}
		previous = pair[0]
		context[pair[0]] = pair[1]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes follow the last encryption context pair", ErrMalformed, len(b))
	}
	return context, nil
}
