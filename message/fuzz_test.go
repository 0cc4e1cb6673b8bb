package message_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/frame"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// FuzzDecrypt starts from real messages under a fixed key: whatever becomes of them, what opens is what was encrypted.
func FuzzDecrypt(f *testing.F) {
	key := newKey(f, 1, "")
	stranger := newKey(f, 2, "stranger")
	plaintexts := [][]byte{{}, []byte("text"), pattern(16), pattern(16 * 3), pattern(16*4 + 5)}
	for i, plaintext := range plaintexts {
		e := &message.Encrypter{Keyring: key, FrameLength: 16}
		encryptionContext := map[string]string{"tenant": "acme"}
		if i%2 == 0 {
			e.Recipients = []provider.Keyring{stranger}
			encryptionContext = nil
		}
		sealed := encrypt(f, e, plaintext, encryptionContext)
		f.Add(sealed, uint16(20))
		f.Add(append(sealed, 'x'), uint16(1))
		f.Add(sealed[:len(sealed)-1], uint16(500))
		f.Add(encrypt(f, &message.Encrypter{Keyring: stranger}, plaintext, nil), uint16(64))
	}
	f.Add([]byte("\x01\x80\x03\x78"), uint16(2))
	f.Add([]byte("AgR4"), uint16(2))

	d := decrypter(key)
	sentinels := []error{provider.ErrInvalidCiphertext, provider.ErrDecryptionFailed, provider.ErrUntrustedKey}
	f.Fuzz(func(t *testing.T, sealed []byte, piece uint16) {
		var accepted, refused int
		for name, way := range decryptWays {
			got, err := way(context.Background(), d, bytes.NewReader(sealed), nil, 1+int(piece))
			whole := false
			for _, plaintext := range plaintexts {
				whole = whole || bytes.Equal(plaintext, got)
			}
			if err == nil {
				accepted++
				require.True(t, whole, "%s opened what was never encrypted", name)
				continue
			}
			refused++
			part := false
			for _, plaintext := range plaintexts {
				part = part || bytes.HasPrefix(plaintext, got)
			}
			require.True(t, part, "%s released what was never encrypted", name)
			found := 0
			for _, s := range sentinels {
				if errors.Is(err, s) {
					found++
				}
			}
			require.Equal(t, 1, found, "%s: %v", name, err)
			require.False(t, errors.Is(err, io.EOF) && !errors.Is(err, frame.ErrTruncated), "%s: %v", name, err)
		}
		require.True(t, accepted == 0 || refused == 0, "%d ways accept it, %d refuse it", accepted, refused)
	})
}
