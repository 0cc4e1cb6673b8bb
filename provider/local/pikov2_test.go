package local_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// sealPikoV2 encrypts as Piko's local provider did.
func sealPikoV2(t *testing.T, key []byte, plaintext string) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	iv := []byte("twelve bytes")
	return base64.StdEncoding.EncodeToString(aead.Seal(iv, iv, []byte(plaintext), nil))
}

func TestUnwrapPikoV2(t *testing.T) {
	own, dataKey := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	text := base64.StdEncoding.EncodeToString(dataKey)
	wrapped := sealPikoV2(t, own, text)
	p := open(t, local.Config{Key: bytes.Clone(own)})
	for wrapped, want := range map[string][]byte{"": own, wrapped: dataKey} {
		for range 2 {
			key, err := p.(provider.PikoV2Keyring).UnwrapPikoV2(t.Context(), wrapped)
			require.NoError(t, err)
			require.NoError(t, key.WithAccess(func(got []byte) error {
				require.Equal(t, want, got)
				return nil
			}))
			require.NoError(t, key.Close(), "closing it must leave the provider's own key")
		}
	}

	changed := []byte(wrapped)
	changed[20] ^= 1
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	closed, err := local.NewProvider(local.Config{Key: bytes.Clone(own)})
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	for name, s := range map[string]struct {
		ctx     context.Context
		p       provider.Provider
		wrapped string
		want    error
	}{
		"changed":               {nil, p, string(changed), provider.ErrDecryptionFailed},
		"another key":           {nil, open(t, local.Config{Key: bytes.Repeat([]byte{3}, 32)}), wrapped, provider.ErrDecryptionFailed},
		"not base64":            {nil, p, "*" + wrapped[1:], provider.ErrInvalidCiphertext},
		"short":                 {nil, p, wrapped[:len(wrapped)-4], provider.ErrInvalidCiphertext},
		"a string, no data key": {nil, p, sealPikoV2(t, own, "*"+text[1:]), provider.ErrInvalidCiphertext},
		"a data key too short":  {nil, p, sealPikoV2(t, own, text[:40]+"AA=="), provider.ErrInvalidCiphertext},
		"own key of 16 bytes":   {nil, open(t, local.Config{Key: bytes.Clone(own[:16])}), "", provider.ErrInvalidKey},
		"closed":                {nil, closed, "", provider.ErrClosed},
		"closed, wrapped":       {nil, closed, wrapped, provider.ErrClosed},
		"cancelled":             {cancelled, p, "", context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			if s.ctx == nil {
				s.ctx = t.Context()
			}
			key, err := s.p.(provider.PikoV2Keyring).UnwrapPikoV2(s.ctx, s.wrapped)
			require.Nil(t, key)
			require.ErrorIs(t, err, s.want)
			require.ErrorContains(t, err, "UnwrapPikoV2")
			require.NotContains(t, err.Error(), text[:10])
		})
	}
}
