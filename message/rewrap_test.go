package message_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestRewrap(t *testing.T) {
	old, renewed, second := newKey(t, 1, "old"), newKey(t, 2, "new"), newKey(t, 3, "second")
	to := &message.Encrypter{Keyring: renewed, Recipients: []provider.Wrapper{second}}
	pairs := map[string]string{"bucket": "b", "tenant": "42"}
	for _, e := range []*message.Encrypter{
		{Keyring: old, FrameLength: 100},
		{Keyring: old, Required: []string{"bucket"}},
		{Keyring: old, Suite: signedSuite},
	} {
		for _, size := range []int{0, 1, 100, 70_000} {
			stored := encrypt(t, e, pattern(size), pairs)
			r, err := message.Rewrap(t.Context(), bytes.NewReader(stored), decrypter(old), to, pairs)
			require.NoError(t, err)
			moved, err := io.ReadAll(r)
			require.NoError(t, err)

			h, _, err := header.Parse(moved, header.Limits{})
			require.NoError(t, err)
			was, _, err := header.Parse(stored, header.Limits{})
			require.NoError(t, err)
			require.NotEqual(t, was.MessageID, h.MessageID, "no two headers have one key")
			require.NotEqual(t, was.Commitment, h.Commitment)
			require.NotContains(t, h.EncryptionContext, header.PublicKeyName)
			require.Equal(t, e.Required == nil, h.EncryptionContext["bucket"] == "b", "what was required stays so")
			for _, keyring := range []provider.Keyring{renewed, second} {
				got, _, err := decrypter(keyring).Decrypt(t.Context(), moved, pairs)
				require.NoError(t, err)
				require.True(t, bytes.Equal(pattern(size), got))
			}
			_, _, err = decrypter(old).Decrypt(t.Context(), moved, pairs)
			require.ErrorIs(t, err, provider.ErrUntrustedKey)

			stored[len(stored)-1] ^= 1
			r, err = message.Rewrap(t.Context(), bytes.NewReader(stored), decrypter(old), to, pairs)
			require.NoError(t, err)
			moved, err = io.ReadAll(r)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			_, _, err = decrypter(renewed).Decrypt(t.Context(), moved, pairs)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext, "what came before the error is no message")
		}
	}
	stored := encrypt(t, &message.Encrypter{Keyring: old}, nil, pairs)
	_, err := message.Rewrap(t.Context(), bytes.NewReader(stored), decrypter(renewed), to, nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	_, err = message.Rewrap(t.Context(), bytes.NewReader(stored), decrypter(old), to, map[string]string{"bucket": "c"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
}

func TestRewrapMovesOldFormats(t *testing.T) {
	renewed := newKey(t, 2, "new")
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(i) // ../pikov2/testdata/README.md
	}
	piko, err := local.NewProvider(local.Config{Key: raw})
	require.NoError(t, err)
	defer piko.Close()
	stored, err := os.ReadFile(filepath.Join("..", "pikov2", "testdata", "local-65537.bin"))
	require.NoError(t, err)
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{piko}, AllowPikoV2: true}
	want, _, err := d.Decrypt(context.Background(), stored, nil)
	require.NoError(t, err)
	r, err := message.Rewrap(t.Context(), bytes.NewReader(stored), d, &message.Encrypter{Keyring: renewed}, nil)
	require.NoError(t, err)
	moved, err := io.ReadAll(r)
	require.NoError(t, err)
	got, _, err := decrypter(renewed).Decrypt(t.Context(), moved, nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}
