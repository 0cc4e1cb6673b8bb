package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

func FuzzParsePEM(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(f, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	f.Add(public)
	f.Add(private)
	f.Add(append(public, private...))
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f, err)
	der, err := x509.MarshalECPrivateKey(curve)
	require.NoError(f, err)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	for _, kem := range hpkeKEMs {
		key, err := kem.GenerateKey()
		require.NoError(f, err)
		seed, err := key.Bytes()
		require.NoError(f, err)
		f.Add(pem.EncodeToMemory(&pem.Block{Type: hpkePrivateBlock, Bytes: withKEM(kem, seed)}))
		f.Add(pem.EncodeToMemory(&pem.Block{Type: hpkePublicBlock, Bytes: withKEM(kem, key.PublicKey().Bytes())}))
	}
	f.Add([]byte("-----BEGIN PIKOKMS HPKE PUBLIC KEY-----\nZHo=\n-----END PIKOKMS HPKE PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pair, err := parsePEM(text)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.Nil(t, pair)
			return
		}
		require.True(t, pair.public != nil || pair.private != nil)
	})
}

func FuzzParseURL(f *testing.F) {
	for _, text := range []string{"local:a.key", "local:///k?namespace=N&name=x", "local:k.pem?padding=oaep-mgf1&hash=sha1", "local:k.pem?peer=p.pem", "local:?", "file:x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		c, err := ParseURL(u)
		if err != nil {
			require.True(t, errors.Is(err, provider.ErrInvalidKey), "%v", err)
			return
		}
		require.NotEmpty(t, c.KeyFile)
	})
}
