package header_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
)

// What is sealed is read under default limits, and what is not read is not sealed: at each limit,
// and one above it.
func TestWhatIsSealedIsReadByDefault(t *testing.T) {
	pairs := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprint(i)] = ""
		}
		return m
	}
	keys := func(n, size int) []header.EncryptedDataKey {
		k := make([]header.EncryptedDataKey, n)
		for i := range k {
			k[i].Ciphertext = make([]byte, size)
		}
		return k
	}
	limits := header.Limits{}.WithDefaults()
	small := sample()
	require.NoError(t, small.Seal(aesGCM(t), nil))
	room := limits.MaxSize - small.Size()
	tests := []struct {
		limit  string // exceeded; empty if none is
		change func(h *header.Header)
	}{
		{"", func(h *header.Header) { h.EncryptionContext = pairs(limits.MaxPairs) }},
		{"MaxPairs", func(h *header.Header) { h.EncryptionContext = pairs(limits.MaxPairs + 1) }},
		{"", func(h *header.Header) { h.EncryptedDataKeys = keys(limits.MaxEncryptedDataKeys, 10) }},
		{"MaxEncryptedDataKeys", func(h *header.Header) { h.EncryptedDataKeys = keys(limits.MaxEncryptedDataKeys+1, 10) }},
		{"", func(h *header.Header) { h.FrameLength = uint32(limits.MaxFrameLength) }},
		{"MaxFrameLength", func(h *header.Header) { h.FrameLength = uint32(limits.MaxFrameLength) + 1 }},
		{"", func(h *header.Header) {
			h.EncryptedDataKeys = append(h.EncryptedDataKeys, keys(4, (room-4*6)/4)...)
		}},
		{"MaxSize", func(h *header.Header) {
			h.EncryptedDataKeys = append(h.EncryptedDataKeys, keys(4, (room-4*6)/4+1)...)
		}},
	}
	for i, tt := range tests {
		h := sample()
		tt.change(h)
		check, err := header.Limits{}.Check(h), h.Seal(aesGCM(t), nil)
		raw := stored(t, h)
		_, _, parsing := header.Parse(raw, header.Limits{})
		_, reading := header.Read(bytes.NewReader(raw), header.Limits{})
		for _, err := range []error{check, err, parsing, reading} {
			if tt.limit == "" {
				require.NoError(t, err, "case %d", i)
				continue
			}
			limit, ok := errors.AsType[*header.LimitError](err)
			require.True(t, ok, "case %d: %v", i, err)
			require.ErrorIs(t, err, header.ErrLimit)
			require.Equal(t, tt.limit, limit.Limit)
			named := *limit
			named.Option = "--some-flag"
			require.ErrorContains(t, &named, "--some-flag sets the limit")
			require.NotContains(t, named.Error(), "Limits.")
		}
	}
}

// A source fails once and then returns io.EOF, as an HTTP request's body does. Read fails wherever
// that happens, even at the end of the header.
func TestReadOfASourceThatFails(t *testing.T) {
	lost := errors.New("connection lost")
	b := stored(t, sample())
	cases := 0
	for n := range len(b) + 1 {
		for name, src := range map[string]io.Reader{
			"once":              &failing{data: b[:n], err: lost},
			"once, with data":   &failing{data: b[:n], err: lost, withData: true},
			"for ever":          &failing{data: b[:n], err: lost, forEver: true},
			"broken off":        &failing{data: b[:n], err: io.ErrUnexpectedEOF},
			"broken, with data": &failing{data: b[:n], err: io.ErrUnexpectedEOF, withData: true},
		} {
			cases++
			failure := lost
			if strings.HasPrefix(name, "broken") {
				failure = io.ErrUnexpectedEOF
			}
			_, err := header.Read(src, header.Limits{})
			if n == len(b) && !strings.HasSuffix(name, "with data") {
				require.NoError(t, err, "the failure comes behind the header")
				continue
			}
			if n == 0 && strings.HasSuffix(name, "with data") {
				continue // there are no data
			}
			require.ErrorIs(t, err, failure, "%s, after %d bytes", name, n)
			require.NotErrorIs(t, err, header.ErrMalformed, "%s, after %d bytes", name, n)
			require.NotErrorIs(t, err, header.ErrNotMessage, "%s, after %d bytes", name, n)
		}
	}
	t.Logf("%d cases", cases)
}

// failing gives data, then its error, and then io.EOF.
type failing struct {
	data              []byte
	err               error
	withData, forEver bool
}

func (f *failing) Read(p []byte) (int, error) {
	n := copy(p, f.data)
	f.data = f.data[n:]
	if n > 0 && (len(f.data) > 0 || !f.withData) {
		return n, nil
	}
	err := f.err
	if !f.forEver {
		f.err = io.EOF
	}
	return n, err
}
