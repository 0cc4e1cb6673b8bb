package signature_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/signature"
)

// Each suite that says so has a signature, and no other.
func TestSuites(t *testing.T) {
	for _, suite := range header.Suites() {
		_, _, err := signature.NewSigner(suite)
		if suite.Signed() {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, header.ErrUnsupported)
		}
	}
}

func FuzzSignature(f *testing.F) {
	for _, suite := range header.Suites() {
		if !suite.Signed() {
			continue
		}
		signer, publicKey, err := signature.NewSigner(suite)
		require.NoError(f, err)
		_, _ = signer.Write([]byte("message"))
		footer, err := signer.Footer()
		require.NoError(f, err)
		require.LessOrEqual(f, len(footer), 2+104) // a length, and a DER signature over P-384
		f.Add(uint16(suite), publicKey, footer)
	}
	f.Add(uint16(0x0578), "AAAA", []byte{0, 0})
	f.Fuzz(func(t *testing.T, suite uint16, publicKey string, footer []byte) {
		verifier, err := signature.NewVerifier(header.Suite(suite), map[string]string{header.PublicKeyName: publicKey})
		if err != nil {
			require.True(t, errors.Is(err, header.ErrMalformed) || errors.Is(err, header.ErrUnsupported), "%v", err)
			return
		}
		require.True(t, header.Suite(suite).Signed())
		_, _ = verifier.Write([]byte("another message"))
		err = verifier.Verify(footer)
		require.True(t, errors.Is(err, signature.ErrFooter) || errors.Is(err, header.ErrSignature), "%v", err)
	})
}
