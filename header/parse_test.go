package header_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
)

const keyARN = "arn:aws:kms:eu-west-2:111122223333:key/715c0818-5825-4245-a755-138a6d9a11e6"

// sample returns a header with every part filled in.
func sample() *header.Header {
	h := &header.Header{
		Suite:             header.AES256GCMHKDFSHA512CommitKey,
		EncryptionContext: map[string]string{"tenant": "acme", "purpose": "backup", "ключ": "значение", "empty": ""},
		EncryptedDataKeys: []header.EncryptedDataKey{
			{ProviderID: "aws-kms", ProviderInfo: []byte(keyARN), Ciphertext: bytes.Repeat([]byte{0xC1}, 184)},
			{ProviderID: "piko", ProviderInfo: []byte("local\x00\x00\x00\x80\x00\x00\x00\x0cIV is 12 byt"), Ciphertext: bytes.Repeat([]byte{0xC2}, 48)},
		},
		ContentType: header.Framed,
		FrameLength: header.DefaultFrameLength,
		MessageID:   make([]byte, 32),
		Commitment:  make([]byte, 32),
	}
	for i := range h.MessageID {
		h.MessageID[i], h.Commitment[i] = byte(i), byte(0xF0-i)
	}
	_, tag := h.Authentication()
	for i := range tag {
		tag[i] = byte(0x70 + i)
	}
	return h
}

// sample1 is sample in version 1, unframed.
func sample1() *header.Header {
	h := sample()
	h.Suite, h.MessageID, h.Commitment = 0x0378, h.MessageID[:16], nil
	h.ContentType, h.FrameLength = header.Unframed, 0
	iv, _ := h.Authentication()
	for i := range iv {
		iv[i] = byte(0x50 + i)
	}
	return h
}

func stored(t testing.TB, h *header.Header) []byte {
	t.Helper()
	b, err := h.Append(nil)
	require.NoError(t, err)
	return b
}

// rawHeader lays out a header by hand, whether the format allows it or not. Each key is its three
// fields in order.
func rawHeader(context []byte, keys [][3]string, contentType byte, frameLength uint32) []byte {
	field := func(b, f []byte) []byte { return append(binary.BigEndian.AppendUint16(b, uint16(len(f))), f...) }
	b := append([]byte{0x02, 0x04, 0x78}, bytes.Repeat([]byte{0x1D}, 32)...)
	b = field(b, context)
	b = binary.BigEndian.AppendUint16(b, uint16(len(keys)))
	for _, k := range keys {
		for _, f := range k {
			b = field(b, []byte(f))
		}
	}
	b = binary.BigEndian.AppendUint32(append(b, contentType), frameLength)
	return append(b, make([]byte, 32+16)...)
}

var oneKey = [][3]string{{"piko", "local", "wrapped"}}

func TestHeaderLayout(t *testing.T) {
	h := &header.Header{
		Suite:             header.AES256GCMHKDFSHA512CommitKey,
		MessageID:         bytes.Repeat([]byte{0x1D}, 32),
		EncryptionContext: map[string]string{"a": "b"},
		EncryptedDataKeys: []header.EncryptedDataKey{{ProviderID: "piko", ProviderInfo: []byte("local"), Ciphertext: []byte("wrapped")}},
		ContentType:       header.Framed,
		FrameLength:       4096,
		Commitment:        make([]byte, 32),
	}
	require.Equal(t, rawHeader([]byte("\x00\x01\x00\x01a\x00\x01b"), oneKey, 2, 4096), stored(t, h))

	h.EncryptionContext = nil
	require.Equal(t, rawHeader(nil, oneKey, 2, 4096), stored(t, h), "an empty context is no bytes after its length")
}

func TestParseGivesBackWhatAppendWrote(t *testing.T) {
	want := sample()
	b := stored(t, want)
	h, size, err := header.Parse(append(bytes.Clone(b), "frames follow"...), header.Limits{})
	require.NoError(t, err)
	require.Equal(t, len(b), size)
	require.Equal(t, len(b), h.Size())
	require.Equal(t, b, h.Bytes())
	require.Equal(t, b, stored(t, h))

	require.Equal(t, want.Suite, h.Suite)
	require.Equal(t, want.MessageID, h.MessageID)
	require.Equal(t, want.EncryptionContext, h.EncryptionContext)
	require.Equal(t, want.EncryptedDataKeys, h.EncryptedDataKeys)
	require.Equal(t, want.ContentType, h.ContentType)
	require.Equal(t, want.FrameLength, h.FrameLength)
	require.Equal(t, want.Commitment, h.Commitment)
	_, wantTag := want.Authentication()
	_, tag := h.Authentication()
	require.Equal(t, wantTag, tag)
}

func TestParseKeepsNoPartOfItsInput(t *testing.T) {
	b := stored(t, sample())
	input := bytes.Clone(b)
	h, _, err := header.Parse(input, header.Limits{})
	require.NoError(t, err)
	clear(input)
	require.Equal(t, b, h.Bytes())
	require.Equal(t, b, stored(t, h))
}

func TestReadStopsAtTheHeadersEnd(t *testing.T) {
	b := stored(t, sample())
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"plain": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
		"halves": iotest.HalfReader, "data with the error": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			h, err := header.Read(wrap(bytes.NewReader(b)), header.Limits{})
			require.NoError(t, err)
			require.Equal(t, b, h.Bytes())
		})
	}
	r := strings.NewReader(string(b) + "frames follow")
	_, err := header.Read(r, header.Limits{})
	require.NoError(t, err)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "frames follow", string(rest))
}

func TestReadPassesItsSourcesErrorOn(t *testing.T) {
	broken := errors.New("connection reset")
	b := stored(t, sample())
	for _, n := range []int{0, 2, 40, len(b) - 1} {
		_, err := header.Read(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)), header.Limits{})
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, header.ErrMalformed)
	}
}

func TestParseErrors(t *testing.T) {
	valid := stored(t, sample())
	start := func(s string) []byte { return append([]byte(s), make([]byte, 200)...) }
	many := make([][3]string, 17)
	tests := []struct {
		name   string
		input  []byte
		limits header.Limits
		want   error
		says   string
	}{
		{"text", start("hello"), header.Limits{}, header.ErrNotMessage, "02 04 78"},
		{"zeros", start(""), header.Limits{}, header.ErrNotMessage, ""},
		{"Piko v2 stream", start("\x02\x00\x00\x01"), header.Limits{}, header.ErrNotMessage, ""},
		{"unknown suite of version 2", start("\x02\x04\x79"), header.Limits{}, header.ErrNotMessage, ""},
		{"version 1 with a suite of version 2", start("\x01\x80\x04\x78"), header.Limits{}, header.ErrNotMessage, ""},
		{"base64 of 0478", []byte(base64.StdEncoding.EncodeToString(valid)), header.Limits{}, header.ErrNotMessage, "base64"},
		{"base64 of 0578", start("AgV4"), header.Limits{}, header.ErrNotMessage, "base64"},
		{"base64 of version 1", start("AYADeA"), header.Limits{}, header.ErrNotMessage, "base64"},
		{"one strange byte", []byte("x"), header.Limits{}, header.ErrNotMessage, ""},
		{"two strange bytes", []byte("\x02\x00"), header.Limits{}, header.ErrNotMessage, ""},

		{"version 1 of another type", start("\x01\x81\x03\x78"), header.Limits{}, header.ErrNotMessage, ""},
		{"version 2 with a suite of version 1", start("\x02\x03\x78"), header.Limits{}, header.ErrNotMessage, ""},
		{"unframed with a frame length", rawHeader(nil, oneKey, 1, 1), header.Limits{}, header.ErrMalformed, "unframed"},
		{"reserved bytes", change(stored(t, sample1()), -28-9, 1), header.Limits{}, header.ErrMalformed, "reserved"},
		{"IV length", change(stored(t, sample1()), -28-5, 1), header.Limits{}, header.ErrMalformed, "IV length 13"},

		{"content type 0", rawHeader(nil, oneKey, 0, 4096), header.Limits{}, header.ErrMalformed, "content type 00"},
		{"content type 3", rawHeader(nil, oneKey, 3, 4096), header.Limits{}, header.ErrMalformed, "content type 03"},
		{"frame length 0", rawHeader(nil, oneKey, 2, 0), header.Limits{}, header.ErrMalformed, "frame length 0"},
		{"no data key", rawHeader(nil, nil, 2, 4096), header.Limits{}, header.ErrMalformed, "no encrypted data key"},
		{"context of one byte", rawHeader([]byte{0}, oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "1 byte"},
		{"context counts none", rawHeader([]byte{0, 0}, oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "no pairs"},
		{"context counts too many", rawHeader([]byte("\x00\x02\x00\x01a\x00\x01b"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "cannot fit"},
		{"context pair over the end", rawHeader([]byte("\x00\x01\x00\x01a\x00\x09b"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "over its end"},
		{"context value missing", rawHeader([]byte("\x00\x01\x00\x02ab"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "over its end"},
		{"context with a trailing byte", rawHeader([]byte("\x00\x01\x00\x01a\x00\x01b!"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "follow"},
		{"context unsorted", rawHeader([]byte("\x00\x02\x00\x01b\x00\x00\x00\x01a\x00\x00"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "sorted"},
		{"context key twice", rawHeader([]byte("\x00\x02\x00\x01a\x00\x00\x00\x01a\x00\x00"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "unique"},
		{"empty context key twice", rawHeader([]byte("\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "unique"},
		{"context key not UTF-8", rawHeader([]byte("\x00\x01\x00\x01\xff\x00\x01b"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "UTF-8"},
		{"context value not UTF-8", rawHeader([]byte("\x00\x01\x00\x01a\x00\x02\xc3\x28"), oneKey, 2, 4096), header.Limits{}, header.ErrMalformed, "UTF-8"},

		{"17 data keys by default", rawHeader(nil, many, 2, 4096), header.Limits{}, header.ErrLimit, "MaxEncryptedDataKeys"},
		{"2 data keys of 1", valid, header.Limits{MaxEncryptedDataKeys: 1}, header.ErrLimit, "MaxEncryptedDataKeys"},
		{"4 pairs of 3", valid, header.Limits{MaxPairs: 3}, header.ErrLimit, "MaxPairs"},
		{"1025 pairs by default", rawHeader(append([]byte{4, 1}, make([]byte, 4*1025)...), oneKey, 2, 4096), header.Limits{}, header.ErrLimit, "MaxPairs"},
		{"one byte over MaxSize", valid, header.Limits{MaxSize: len(valid) - 1}, header.ErrLimit, "MaxSize"},
		{"frame length over 64 MiB by default", rawHeader(nil, oneKey, 2, 64<<20+1), header.Limits{}, header.ErrLimit, "MaxFrameLength"},
		{"frame length 2³²−1", rawHeader(nil, oneKey, 2, 1<<32-1), header.Limits{}, header.ErrLimit, "MaxFrameLength"},
		{"frame length over a limit", valid, header.Limits{MaxFrameLength: 65535}, header.ErrLimit, "MaxFrameLength"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := header.Parse(tt.input, tt.limits)
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.says)
			for _, other := range []error{header.ErrNotMessage, header.ErrMalformed, header.ErrUnsupported, header.ErrLimit} {
				if other != tt.want {
					require.NotErrorIs(t, err, other)
				}
			}
			_, readErr := header.Read(bytes.NewReader(tt.input), tt.limits)
			require.EqualError(t, readErr, err.Error())
		})
	}
}

func TestLimitsTakeTheirOwnValue(t *testing.T) {
	valid := stored(t, sample())
	exact := header.Limits{MaxSize: len(valid), MaxPairs: 4, MaxEncryptedDataKeys: 2, MaxFrameLength: 65536}
	_, _, err := header.Parse(valid, exact)
	require.NoError(t, err)
	_, _, err = header.Parse(rawHeader(nil, oneKey, 2, 64<<20), header.Limits{})
	require.NoError(t, err)
	_, _, err = header.Parse(rawHeader(nil, make([][3]string, 16), 2, 1), header.Limits{})
	require.NoError(t, err)
	_, _, err = header.Parse(rawHeader(nil, make([][3]string, 65535), 2, 1), header.Limits{MaxEncryptedDataKeys: 65535, MaxSize: 1 << 20})
	require.NoError(t, err)
}

func TestParseCutAnywhere(t *testing.T) {
	valid := stored(t, sample())
	for n := range len(valid) {
		_, _, err := header.Parse(valid[:n], header.Limits{})
		_, readErr := header.Read(bytes.NewReader(valid[:n]), header.Limits{})
		require.EqualError(t, readErr, err.Error())
		if n == 0 {
			require.Equal(t, io.EOF, err)
			require.Equal(t, io.EOF, readErr)
			continue
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
		require.ErrorIs(t, err, header.ErrMalformed, "%d bytes", n)
		require.ErrorIs(t, readErr, io.ErrUnexpectedEOF, "%d bytes", n)
	}
}

// strictReader has the bytes that a reader may ask for and no more.
type strictReader struct {
	t    *testing.T
	rest []byte
}

func (r *strictReader) Read(p []byte) (int, error) {
	if len(p) > len(r.rest) {
		r.t.Errorf("asked for %d bytes where only %d may be asked for", len(p), len(r.rest))
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestLimitsRefuseBeforeTheBytesAreAskedFor(t *testing.T) {
	start := append([]byte{0x02, 0x04, 0x78}, make([]byte, 32)...)
	with := func(s string) []byte { return append(bytes.Clone(start), s...) }
	full := strings.Repeat("k", 65535)
	tests := []struct {
		name   string
		input  []byte
		limits header.Limits
	}{
		{"65535 data keys", with("\x00\x00\xff\xff"), header.Limits{}},
		{"17 data keys", with("\x00\x00\x00\x11"), header.Limits{}},
		{"context length", with("\xff\xff"), header.Limits{MaxSize: 65535}},
		{"provider ID length", with("\x00\x00\x00\x01\xff\xff"), header.Limits{MaxSize: 65535}},
		{"provider information length", with("\x00\x00\x00\x01\x00\x01x\xff\xff"), header.Limits{MaxSize: 65535}},
		{"ciphertext length", with("\x00\x00\x00\x01\x00\x01x\x00\x01y\xff\xff"), header.Limits{MaxSize: 65535}},
		{"default size, many large fields", with("\x00\x00\x00\x10" + strings.Repeat("\xff\xff"+full, 3) + "\xff\xff"), header.Limits{}},
		{"not a message", []byte("%PDF"), header.Limits{}},
		{"another version", []byte{0x03, 0x80, 0x03, 0x78}, header.Limits{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &strictReader{t: t, rest: tt.input}
			_, err := header.Read(r, tt.limits)
			require.Error(t, err)
			require.Empty(t, r.rest, "the test gives more than was needed to refuse")
			if tt.input[0] == 0x02 {
				require.ErrorIs(t, err, header.ErrLimit)
			}
		})
	}
}

func TestLimitsRefuseBeforeMemoryIsTaken(t *testing.T) {
	start := append([]byte{0x02, 0x04, 0x78}, make([]byte, 32)...)
	var before, after runtime.MemStats
	for _, input := range [][]byte{append(start, 0, 0, 0xff, 0xff), rawHeader(nil, oneKey, 2, 1<<32-1)} {
		const runs = 100
		runtime.ReadMemStats(&before)
		for range runs {
			_, err := header.Read(bytes.NewReader(input), header.Limits{})
			require.ErrorIs(t, err, header.ErrLimit)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)/runs, uint64(8<<10))
	}
}

func TestAppendErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(*header.Header)
		want   error
	}{
		{"suite", func(h *header.Header) { h.Suite = 0x0379 }, header.ErrUnsupported},
		{"another version's suite", func(h *header.Header) { h.Suite = 0x0378 }, header.ErrMalformed},
		{"message ID", func(h *header.Header) { h.MessageID = h.MessageID[1:] }, header.ErrMalformed},
		{"commitment", func(h *header.Header) { h.Commitment = nil }, header.ErrMalformed},
		{"no data key", func(h *header.Header) { h.EncryptedDataKeys = nil }, header.ErrMalformed},
		{"too many data keys", func(h *header.Header) { h.EncryptedDataKeys = make([]header.EncryptedDataKey, 65536) }, header.ErrMalformed},
		{"long provider ID", func(h *header.Header) { h.EncryptedDataKeys[0].ProviderID = strings.Repeat("x", 65536) }, header.ErrMalformed},
		{"long provider information", func(h *header.Header) { h.EncryptedDataKeys[1].ProviderInfo = make([]byte, 65536) }, header.ErrMalformed},
		{"long ciphertext", func(h *header.Header) { h.EncryptedDataKeys[1].Ciphertext = make([]byte, 65536) }, header.ErrMalformed},
		{"context", func(h *header.Header) { h.EncryptionContext["\xff"] = "" }, header.ErrInvalidContext},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := sample()
			tt.change(h)
			_, err := h.Append(nil)
			require.ErrorIs(t, err, tt.want)
			err = h.Seal(aesGCM(t), nil)
			require.True(t, errors.Is(err, tt.want) || errors.Is(err, header.ErrLimit), "%v", err)
			require.Zero(t, h.Size())
		})
	}
}

func TestSniff(t *testing.T) {
	tests := map[string]bool{
		"\x02\x04\x78\x00": true, "\x02\x05\x78\xff": true, "\x02\x04\x78": false, "\x00\x00\x00\x00": false,
		"\x01\x80\x00\x14": true, "\x01\x80\x01\x78": true, "\x01\x80\x02\x14": true, "\x01\x80\x03\x78": true,
		"": false, "\x02": false, "\x02\x04": false, "\x01\x80\x01": false,
		"\x02\x00\x01\x00": false, "\x01\x80\x05\x78": false, "\x01\x81\x01\x78": false, "\x03\x04\x78\x00": false, "AgR4": false,
	}
	for input, want := range tests {
		require.Equal(t, want, header.Sniff([]byte(input)), "% x", input)
	}
	require.True(t, header.Sniff(stored(t, sample())))
}

// change returns b with the byte at a place, from the end if negative, xored with mask.
func change(b []byte, at int, mask byte) []byte {
	b = bytes.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= mask
	return b
}

func TestVersion1(t *testing.T) {
	want := sample1()
	b := stored(t, want)
	require.Equal(t, []byte{0x01, 0x80, 0x03, 0x78}, b[:4])
	require.Equal(t, want.MessageID, b[4:20])
	wantIV, wantTag := want.Authentication()
	require.Equal(t, append(append([]byte{0x01, 0, 0, 0, 0, 12, 0, 0, 0, 0}, wantIV[:]...), wantTag[:]...), b[len(b)-38:])
	got, size, err := header.Parse(append(bytes.Clone(b), "body"...), header.Limits{})
	require.NoError(t, err)
	require.Equal(t, len(b), size)
	require.Equal(t, 1, got.Version())
	require.Equal(t, want.MessageID, got.MessageID)
	require.Equal(t, want.EncryptionContext, got.EncryptionContext)
	require.Equal(t, want.EncryptedDataKeys, got.EncryptedDataKeys)
	gotIV, gotTag := got.Authentication()
	require.Equal(t, wantIV, gotIV)
	require.Equal(t, wantTag, gotTag)
	require.Empty(t, got.Commitment)
	for n := range b {
		_, err := header.Read(bytes.NewReader(b[:n]), header.Limits{})
		require.Error(t, err)
	}
	aead := aesGCM(t)
	require.NoError(t, want.Seal(aead, map[string]string{"un": "stored"}))
	got, _, err = header.Parse(want.Bytes(), header.Limits{})
	require.NoError(t, err)
	require.NoError(t, got.Verify(aead, map[string]string{"un": "stored"}))
	require.ErrorIs(t, got.Verify(aead, nil), header.ErrAuthentication)
	require.ErrorIs(t, got.Verify(aead, map[string]string{"un": "stored", "more": ""}), header.ErrAuthentication)
}

func TestReadKeepsTheSourcesErrors(t *testing.T) {
	for _, broken := range []error{errors.New("mine"), io.ErrUnexpectedEOF, io.ErrNoProgress} {
		source := io.MultiReader(bytes.NewReader(rawHeader(nil, oneKey, 2, 64)[:50]), iotest.ErrReader(broken))
		_, err := header.Read(source, header.Limits{})
		require.ErrorIs(t, err, broken)
		require.NotErrorIs(t, err, header.ErrMalformed, "a broken source is no malformed header")
	}
	_, err := header.Read(silent{}, header.Limits{})
	require.ErrorIs(t, err, io.ErrNoProgress)
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }
