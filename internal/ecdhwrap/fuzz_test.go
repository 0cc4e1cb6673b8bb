package ecdhwrap

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

func FuzzParseInfo(f *testing.F) {
	for _, c := range []ecdh.Curve{ecdh.P256(), ecdh.P384(), ecdh.P521()} {
		a, err := c.GenerateKey(rand.Reader)
		require.NoError(f, err)
		b, err := c.GenerateKey(rand.Reader)
		require.NoError(f, err)
		info := Parties{a.PublicKey(), b.PublicKey()}.Info()
		f.Add(info)
		f.Add(info[:len(info)-1])
	}
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, info []byte) {
		p, err := ParseInfo(info)
		if err != nil {
			return
		}
		require.Equal(t, info, p.Info(), "each pair of keys has one form")
	})
}

func FuzzUnwrap(f *testing.F) {
	a, err := ecdh.P256().GenerateKey(rand.Reader)
	require.NoError(f, err)
	p := Parties{a.PublicKey(), a.PublicKey()}
	shared, err := a.ECDH(a.PublicKey())
	require.NoError(f, err)
	wrapped, err := p.Wrap(shared, make([]byte, 32), nil)
	require.NoError(f, err)
	f.Add(wrapped[:len(wrapped)-1], 32)
	f.Add([]byte{}, -1)
	f.Add(append([]byte{1}, wrapped[1:]...), 32)
	f.Fuzz(func(t *testing.T, ciphertext []byte, size int) {
		if string(ciphertext) == string(wrapped) {
			return
		}
		_, err := p.Unwrap(shared, ciphertext, size, nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	})
}
