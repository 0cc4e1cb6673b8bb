package frame_test

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/frame"
)

// openCipher does not encrypt, and its tags are zeros. So a fuzzer gets past the tag of a frame
// that it made up.
type openCipher struct{ cipher.AEAD }

func (openCipher) Seal(dst, _, plaintext, _ []byte) []byte {
	return append(append(dst, plaintext...), make([]byte, 16)...)
}

func (openCipher) Open(dst, _, ciphertext, _ []byte) ([]byte, error) {
	n := len(ciphertext) - 16
	if n < 0 || !bytes.Equal(ciphertext[n:], make([]byte, 16)) {
		return nil, errors.New("the tag does not fit")
	}
	return append(dst, ciphertext[:n]...), nil
}

func FuzzOpen(f *testing.F) {
	plain := config(16)
	plain.AEAD = openCipher{plain.AEAD}
	for _, c := range []frame.Config{config(16), plain} {
		for _, n := range []int{0, 5, 16, 17, 48} {
			for _, fullLast := range []bool{false, true} {
				sealed := bytes.Join(handmade(c, pattern(n), fullLast), nil)
				f.Add(sealed, uint8(3), false, false, fullLast)
				f.Add(append(sealed, 'x'), uint8(60), true, false, fullLast)
				f.Add(sealed[:len(sealed)-3], uint8(200), true, false, false)
			}
		}
	}
	for _, n := range []int{0, 5, 16, 17} {
		one := append(append(make([]byte, 12+7), byte(n)), pattern(n)...)
		f.Add(append(one, make([]byte, 16)...), uint8(7), false, true, false)
		f.Add(append(one, make([]byte, 16+3)...), uint8(7), false, true, true)
	}
	errFooter := errors.New("footer")
	sentinels := []error{frame.ErrAuthentication, frame.ErrSequence, frame.ErrTruncated, frame.ErrTrailingData, frame.ErrMalformed, frame.ErrTooLarge, errFooter}
	f.Fuzz(func(t *testing.T, sealed []byte, piece uint8, encrypted, unframed, signed bool) {
		c := plain
		if encrypted {
			c = config(16)
		}
		c.Unframed = unframed
		if signed {
			c.Footer = func(footer []byte) error {
				if string(footer) != "\x00\x00\x00" {
					return errFooter
				}
				return nil
			}
		}
		var released []byte
		var verdict error // the sentinel that the first way's error holds
		for i, open := range openWays {
			got, err := open.run(c, bytes.NewReader(sealed), always(1+int(piece)))
			var found error
			for _, s := range sentinels {
				if errors.Is(err, s) {
					require.NoError(t, found, "two sentinels in one error")
					found = s
				}
			}
			require.Equal(t, err == nil, found == nil, "%s: an error without a sentinel: %v", open.name, err)
			if i == 0 {
				released, verdict = got, found
				continue
			}
			require.Equal(t, verdict == nil, found == nil, open.name)
			// A pull stream looks for the end of its input before it opens the final frame, and
			// judges a frame's start before the bytes that follow; a push stream cannot. Each
			// other error is the same.
			if verdict != frame.ErrTrailingData && found != frame.ErrTruncated {
				require.Equal(t, verdict, found, open.name)
			}
			require.Equal(t, len(released), len(got), open.name)
			require.True(t, bytes.Equal(released, got), open.name)
		}
		if verdict != nil {
			require.Zero(t, len(released)%c.Length)
			return
		}
		if signed {
			sealed = sealed[:len(sealed)-3]
		}
		if unframed {
			require.Len(t, sealed, len(released)+frame.UnframedOverhead)
			return
		}
		fullLast := bytes.Join(handmade(c, released, true), nil)
		require.True(t, bytes.Equal(sealed, withIVs(c, body(c, released), sealed)) || bytes.Equal(sealed, withIVs(c, fullLast, sealed)), "a body that no writer makes was opened")
		size, err := frame.PlaintextSize(int64(len(sealed)), c.Length)
		require.NoError(t, err)
		require.EqualValues(t, len(released), size)
	})
}

// withIVs returns a body with the IVs of another of its size: readers take whatever IV is stored,
// as early writers drew them.
func withIVs(c frame.Config, body, another []byte) []byte {
	if len(body) != len(another) {
		return body
	}
	at := 0
	for ; !bytes.HasPrefix(body[at:], []byte{0xFF, 0xFF, 0xFF, 0xFF}); at += c.Length + frame.RegularOverhead {
		copy(body[at+4:at+16], another[at+4:])
	}
	copy(body[at+8:at+20], another[at+8:])
	return body
}
