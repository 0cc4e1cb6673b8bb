package kmsclient

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// The plaintext of an answer does not reach the AWS SDK, nor does its text stay in the body's
// buffer.
func TestThePlaintextOfAnAnswerIsTakenOut(t *testing.T) {
	secret := bytes.Repeat([]byte("secret!?"), 4)
	text := base64.StdEncoding.EncodeToString(secret)
	for name, c := range map[string]struct{ body, rest string }{
		"in the middle": {`{"KeyId":"k","Plaintext":"` + text + `","CiphertextBlob":"AAAA"}`, `{"KeyId":"k","Plaintext":"","CiphertextBlob":"AAAA"}`},
		"first":         {`{"Plaintext":"` + text + `","KeyId":"` + strings.Repeat("k", 200) + `"}`, `{"Plaintext":"","KeyId":"` + strings.Repeat("k", 200) + `"}`},
		"last":          {` { "KeyId" : "k\"" , "Plaintext" : "` + text + `" } `, ` { "KeyId" : "k\"" , "Plaintext" : "" } `},
		"nested before": {`{"x":{"Plaintext":"no","y":["Plaintext","no"]},"z":["Plaintext"],"Plaintext":"` + text + `"}`, `{"x":{"Plaintext":"no","y":["Plaintext","no"]},"z":["Plaintext"],"Plaintext":""}`},
		"as a value":    {`{"KeyId":"Plaintext","Plaintext":"` + text + `"}`, `{"KeyId":"Plaintext","Plaintext":""}`},
	} {
		h := new(Held)
		body := []byte(c.body)
		rest := h.takeFrom(body)
		require.Equal(t, c.rest, string(rest), name)
		require.Equal(t, secret, h.Take(nil), name)
		require.NotContains(t, string(body), text[:8], name)
		require.Equal(t, make([]byte, len(body)-len(rest)), body[len(rest):], name)
	}
	for name, body := range map[string]string{
		"no plaintext": `{"KeyId":"k"}`,
		"null":         `{"Plaintext":null,"KeyId":"k"}`,
		"an object":    `{"Plaintext":{"a":"AAAA"}}`,
		"no base64":    `{"Plaintext":"*"}`,
		"escaped":      `{"Plaintext":"AA\/A"}`,
		"cut":          `{"Plaintext":"AAA`,
		"no object":    `["Plaintext","AAAA"]`,
		"nothing":      ``,
	} {
		h := new(Held)
		require.Equal(t, body, string(h.takeFrom([]byte(body))), name)
		require.Empty(t, h.Take(nil), name)
	}
	h := &Held{[]byte("of an attempt before")}
	found := []byte("found")
	require.Equal(t, found, h.Take(found))
	require.Equal(t, make([]byte, 20), h.plaintext)
}

// Whatever a JSON object looks like, it stays the same but for the plaintext.
func FuzzTakeFrom(f *testing.F) {
	for _, body := range []string{`{"Plaintext":"AAAA","KeyId":"k"}`, `{"a":[{"Plaintext":"AAAA"}],"Plaintext":"\u0041AAA"}`, `{"a\\":"\"","Plaintext":""}`, `{`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var before, after struct {
			Plaintext json.RawMessage
			Rest      map[string]json.RawMessage `json:"-"`
		}
		valid := json.Unmarshal(body, &before.Rest) == nil && before.Rest != nil
		plain, isText := before.Rest["Plaintext"]
		h := new(Held)
		rest := h.takeFrom(bytes.Clone(body))
		if !valid {
			return
		}
		require.NoError(t, json.Unmarshal(rest, &after.Rest))
		require.Len(t, after.Rest, len(before.Rest))
		for name, value := range before.Rest {
			if name != "Plaintext" {
				require.Equal(t, value, after.Rest[name])
			}
		}
		if isText && h.plaintext != nil && bytes.Count(body, []byte(`Plaintext`)) == 1 {
			var want []byte
			require.NoError(t, json.Unmarshal(plain, &want))
			require.Equal(t, append([]byte{}, want...), h.plaintext)
		}
	})
}

func TestAnAnswerIsReadAsAWholeWithinBounds(t *testing.T) {
	for name, c := range map[string]struct {
		body     io.Reader
		expected int64
		fails    string
	}{
		"known size":       {strings.NewReader(strings.Repeat("x", 10_000)), 10_000, ""},
		"unknown size":     {iotest.OneByteReader(strings.NewReader(strings.Repeat("x", 10_000))), -1, ""},
		"more than stated": {strings.NewReader(strings.Repeat("x", 10_000)), 10, ""},
		"largest":          {strings.NewReader(strings.Repeat("x", maxAnswer)), maxAnswer, ""},
		"stated too large": {strings.NewReader(""), maxAnswer + 1, "KMS's have at most"},
		"too large":        {strings.NewReader(strings.Repeat("x", maxAnswer+1)), -1, "it has over"},
		"endless":          {endless{}, -1, "it has over"},
		"broken":           {iotest.ErrReader(io.ErrUnexpectedEOF), -1, "unexpected EOF"},
	} {
		body, err := readBounded(c.body, c.expected)
		if c.fails != "" {
			require.ErrorContains(t, err, c.fails, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, strings.Repeat("x", len(body)), string(body), name)
		require.Contains(t, []int{10_000, maxAnswer}, len(body), name)
	}
	answer := &http.Response{StatusCode: 200, ContentLength: -1, Body: io.NopCloser(strings.NewReader(`{"Plaintext":"AAAA"}`))}
	require.NoError(t, readAnswer(answer, new(Held)))
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, `{"Plaintext":""}`, string(body))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
