package header_test

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// Made with hmac and hashlib of Python 3: the data key is the bytes 00 to 1f, the message ID 80 to
// 9f.
const (
	vectorKey        = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	vectorMessageID  = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"
	vectorDerived    = "b77ee1b57bc95efeb71e69efe41543e39a7abf24e4b7fdd82b07cc96b077d900"
	vectorCommitment = "0044369f73b68422adb8d8a412a5689edcdd493729fc8187d2d6a9d00cd16357"
)

func newGCM(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	return aead
}

func aesGCM(t testing.TB) cipher.AEAD { return newGCM(t, unhex(t, vectorDerived)) }

func TestDeriveKeys(t *testing.T) {
	dataKey := unhex(t, vectorKey)
	aead, commitment, err := header.AES256GCMHKDFSHA512CommitKey.DeriveKeys(dataKey, unhex(t, vectorMessageID))
	require.NoError(t, err)
	require.Equal(t, vectorCommitment, hex.EncodeToString(commitment))
	require.Equal(t, vectorKey, hex.EncodeToString(dataKey), "the data key stays the caller's")

	// A cipher does not expose its key, so the test compares what two ciphers seal.
	nonce := make([]byte, gcm.IVSize)
	require.Equal(t, aesGCM(t).Seal(nil, nonce, []byte("text"), []byte("more")), aead.Seal(nil, nonce, []byte("text"), []byte("more")))
	require.Equal(t, gcm.IVSize, aead.NonceSize())
	require.Equal(t, gcm.TagSize, aead.Overhead())
}

func TestDeriveKeysErrors(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		_, _, err := header.AES256GCMHKDFSHA512CommitKey.DeriveKeys(make([]byte, size), make([]byte, 32))
		require.ErrorIs(t, err, header.ErrUnsupported)
	}
	_, _, err := header.Suite(0x0579).DeriveKeys(make([]byte, 32), make([]byte, 32))
	require.ErrorIs(t, err, header.ErrUnsupported)
}

func TestSuiteString(t *testing.T) {
	require.Equal(t, "0x0478 (AES-256-GCM, HKDF-SHA512, key commitment)", header.AES256GCMHKDFSHA512CommitKey.String())
	require.Contains(t, header.Suite(0x0378).String(), "0x0378 (")
	require.Equal(t, "0x0479", header.Suite(0x0479).String())
}

// TestSuitesAreDocumented looks for each suite in docs/FORMAT.md.
func TestSuitesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/FORMAT.md")
	require.NoError(t, err)
	for _, suite := range header.Suites() {
		require.Contains(t, strings.ToLower(string(text)), fmt.Sprintf("`%04x`", uint16(suite)))
	}
}
