package header_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/header"
)

func TestAppendContext(t *testing.T) {
	tests := []struct {
		name    string
		context map[string]string
		want    string
	}{
		{"nil", nil, ""},
		{"empty", map[string]string{}, ""},
		{"one pair", map[string]string{"a": "b"}, "\x00\x01" + "\x00\x01a\x00\x01b"},
		{"empty parts", map[string]string{"": ""}, "\x00\x01" + "\x00\x00\x00\x00"},
		{
			"the first pairs of the specification's example header",
			map[string]string{"2context": "example", "0This": "is", "1an": "encryption"},
			"\x00\x03" + "\x00\x050This\x00\x02is" + "\x00\x031an\x00\x0aencryption" + "\x00\x082context\x00\x07example",
		},
		{
			// U+FF3A is EF BC BA and U+1F600 is F0 9F 98 80: sorted by UTF-16 units, as some
			// languages do, they would change places.
			"sorted by bytes",
			map[string]string{"\U0001F600": "4", "\uFF3A": "3", "b": "2", "B": "1", "ba": "2+"},
			"\x00\x05" + "\x00\x01B\x00\x011" + "\x00\x01b\x00\x012" + "\x00\x02ba\x00\x022+" +
				"\x00\x03\xef\xbc\xba\x00\x013" + "\x00\x04\xf0\x9f\x98\x80\x00\x014",
		},
		{"long value", map[string]string{"k": strings.Repeat("v", 65528)}, "\x00\x01\x00\x01k\xff\xf8" + strings.Repeat("v", 65528)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := header.AppendContext([]byte("before"), tt.context)
			require.NoError(t, err)
			require.Equal(t, "before"+tt.want, string(got))
		})
	}
}

func TestAppendContextErrors(t *testing.T) {
	crowd := make(map[string]string, math.MaxUint16+1)
	for i := range math.MaxUint16 + 1 {
		crowd[fmt.Sprint(i)] = ""
	}
	for name, context := range map[string]map[string]string{
		"key not UTF-8":     {"\xff": ""},
		"value not UTF-8":   {"k": "\xc3\x28"},
		"key too long":      {strings.Repeat("k", 65536): ""},
		"value too long":    {"k": strings.Repeat("v", 65536)},
		"together too long": {"k": strings.Repeat("v", 40000), "l": strings.Repeat("v", 40000)},
		"one byte too long": {"k": strings.Repeat("v", 65529)},
		"too many pairs":    crowd,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := header.AppendContext(nil, context)
			require.ErrorIs(t, err, header.ErrInvalidContext)
			require.Less(t, len(err.Error()), 300, "the error repeats the pair")
		})
	}
}

func TestContextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := sample()
		h.EncryptionContext = rapid.MapOfN(rapid.String(), rapid.String(), 0, 20).Draw(t, "context")
		b, err := h.Append(nil)
		require.NoError(t, err)
		got, _, err := header.Parse(b, header.Limits{})
		require.NoError(t, err)
		require.Len(t, got.EncryptionContext, len(h.EncryptionContext))
		for k, v := range h.EncryptionContext {
			require.Equal(t, v, got.EncryptionContext[k])
		}
	})
}

func TestCheckContext(t *testing.T) {
	for _, ok := range []map[string]string{nil, {}, {"a": ""}, {"aws:s3": "x"}, {"aws-crypto": "x"}, {"Aws-crypto-x": "x"}, {"x": "aws-crypto-public-key"}} {
		require.NoError(t, header.CheckContext(ok))
	}
	for _, bad := range []string{"", "aws-crypto-", "aws-crypto-public-key", "aws-crypto-x"} {
		require.ErrorIs(t, header.CheckContext(map[string]string{"fine": "x", bad: "x"}), header.ErrInvalidContext, "%q", bad)
	}
}
