package local_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

func newRSA(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}

var rsaPair, otherPair = sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) }), sync.OnceValue(func() *rsa.PrivateKey { return newRSA(2048) })

func block(kind string, der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func publicPEM(key *rsa.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	return block("PUBLIC KEY", der, err)
}

func privatePEM(key *rsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return block("PRIVATE KEY", der, err)
}

func bothPEM(key *rsa.PrivateKey) []byte { return append(publicPEM(key), privatePEM(key)...) }

// A wrapped key under RSA is not bound to the encryption context, so the suite's part on data keys
// does not hold.
func TestRSAStreams(t *testing.T) {
	for _, hash := range []crypto.Hash{0, crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		both := open(t, local.Config{Key: bothPEM(rsaPair()), Hash: hash})
		require.Equal(t, provider.Type("local_rsa"), both.Type())
		require.NoError(t, provider.Check(t.Context(), both))
		uploader := open(t, local.Config{Key: publicPEM(rsaPair()), Hash: hash})
		require.NoError(t, provider.Check(t.Context(), uploader))
		reader := open(t, local.Config{Key: privatePEM(rsaPair()), Hash: hash})
		require.NoError(t, provider.Check(t.Context(), reader))
		pairs := map[string]string{"tenant": "42"}

		stored, err := (&message.Encrypter{Keyring: uploader}).Encrypt(t.Context(), []byte("write only"), pairs)
		require.NoError(t, err)
		for _, p := range []provider.Provider{both, reader} {
			d := message.Decrypter{Keyrings: []provider.Unwrapper{p}}
			plaintext, _, err := d.Decrypt(t.Context(), stored, pairs)
			require.NoError(t, err)
			require.Equal(t, "write only", string(plaintext))
			_, _, err = d.Decrypt(t.Context(), stored, map[string]string{"tenant": "43"})
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, _, err = d.Decrypt(t.Context(), stored, map[string]string{"more": "x"})
			require.Error(t, err)
		}

		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{uploader}}).Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, provider.ErrKeyUsage)
		require.ErrorContains(t, err, "decrypting takes the private one")
		_, err = envelope.Seal(t.Context(), reader, "x", nil)
		require.ErrorIs(t, err, provider.ErrKeyUsage)
		require.ErrorContains(t, err, "openssl pkey")

		for _, wrong := range []local.Config{
			{Key: privatePEM(otherPair()), Hash: hash},
			{Key: privatePEM(rsaPair()), Hash: crypto.SHA384 + crypto.SHA512 - max(hash, crypto.SHA384)},
		} {
			if wrong.Hash == hash {
				continue
			}
			_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{open(t, wrong)}}).Decrypt(t.Context(), stored, nil)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		}
		_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{open(t, local.Config{Key: privatePEM(rsaPair()), Name: "another"})}}).Decrypt(t.Context(), stored, nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
}

func TestRSAWrappedKeyLayout(t *testing.T) {
	p := open(t, local.Config{Key: bothPEM(rsaPair()), Namespace: "ns", Name: "naïve"})
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, made.Close())
	require.Equal(t, "ns", made.EncryptedKey.ProviderID)
	require.Equal(t, "naïve", string(made.EncryptedKey.ProviderInfo))
	require.Len(t, made.EncryptedKey.Ciphertext, 256)
	require.Equal(t, "naïve", message.KeyName(made.EncryptedKey))
	info, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "RSA-2048-OAEP-SHA-256", info.Algorithm)
}

// Two keys may have one name. Messages that can't be distinguished are moved once more, rather than
// left under a key that is going to be deleted.
func TestIsCurrentUnderRSAKeys(t *testing.T) {
	p := open(t, local.Config{Key: publicPEM(rsaPair())})
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, made.Close())
	request := &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32}
	for name, c := range map[string]struct {
		config local.Config
		want   bool
	}{
		"both keys":     {local.Config{Key: bothPEM(rsaPair())}, true},
		"another name":  {local.Config{Key: bothPEM(rsaPair()), Name: "another"}, false},
		"public key":    {local.Config{Key: publicPEM(rsaPair())}, false},
		"another's":     {local.Config{Key: publicPEM(otherPair())}, false},
		"other padding": {local.Config{Key: bothPEM(otherPair()), PKCS1v15: true}, false},
	} {
		got, err := open(t, c.config).IsCurrent(t.Context(), request)
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
}

func TestPKCS1IsForReading(t *testing.T) {
	p := open(t, local.Config{Key: bothPEM(rsaPair()), PKCS1v15: true})
	require.NoError(t, provider.Check(t.Context(), p))
	_, err := p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorContains(t, err, "use OAEP")

	key := bytes.Repeat([]byte{7}, 32)
	//lint:ignore SA1019 what old messages have
	ciphertext, err := rsa.EncryptPKCS1v15(rand.Reader, &rsaPair().PublicKey, key)
	require.NoError(t, err)
	unwrap := func(ciphertext []byte) ([]byte, error) {
		got, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{
			EncryptedKey: header.EncryptedDataKey{ProviderID: "piko", ProviderInfo: []byte("local"), Ciphertext: ciphertext}, Size: 32,
		})
		if err != nil {
			return nil, err
		}
		defer got.Close()
		var plain []byte
		return plain, got.PlaintextKey.WithAccess(func(k []byte) error { plain = bytes.Clone(k); return nil })
	}
	got, err := unwrap(ciphertext)
	require.NoError(t, err)
	require.Equal(t, key, got)

	// A wrong padding gives a key that nobody can know, and no error that would tell of the
	// padding.
	wrong := bytes.Clone(ciphertext)
	wrong[100] ^= 1
	first, err := unwrap(wrong)
	require.NoError(t, err)
	second, err := unwrap(wrong)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.NotEqual(t, key, first)
	_, err = unwrap(append(ciphertext, 0))
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

func TestBadRSAConfig(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	ec, err := x509.MarshalPKCS8PrivateKey(edwards)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		config local.Config
		says   string
	}{
		"no pair":        {local.Config{Key: append(publicPEM(otherPair()), privatePEM(rsaPair())...)}, "no pair"},
		"two public":     {local.Config{Key: append(publicPEM(otherPair()), publicPEM(rsaPair())...)}, "second public key"},
		"two private":    {local.Config{Key: append(privatePEM(otherPair()), privatePEM(rsaPair())...)}, "second private key"},
		"curve":          {local.Config{Key: block("PRIVATE KEY", ec, nil)}, "neither an RSA key"},
		"certificate":    {local.Config{Key: block("CERTIFICATE", []byte("x"), nil)}, "known are PUBLIC KEY"},
		"encrypted":      {local.Config{Key: block("ENCRYPTED PRIVATE KEY", []byte("x"), nil)}, "it is encrypted"},
		"garbage":        {local.Config{Key: block("PRIVATE KEY", []byte("x"), nil)}, "does not parse"},
		"cut":            {local.Config{Key: publicPEM(rsaPair())[:200]}, "no whole PEM block"},
		"short modulus":  {local.Config{Key: publicPEM(newRSA(1024))}, "has 1024 bits"},
		"hash":           {local.Config{Key: publicPEM(rsaPair()), Hash: crypto.MD5}, "not for MD5"},
		"hash of PKCS1":  {local.Config{Key: publicPEM(rsaPair()), Hash: crypto.SHA256, PKCS1v15: true}, "has no hash"},
		"AES, padding":   {local.Config{Key: make([]byte, 32), PKCS1v15: true}, "are for RSA keys"},
		"AES, with hash": {local.Config{Key: make([]byte, 32), Hash: crypto.SHA256}, "are for RSA keys"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := local.NewProvider(c.config)
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, p)
		})
	}
}

func TestRSAKeyFiles(t *testing.T) {
	write := func(text []byte, mode fs.FileMode) string {
		name := filepath.Join(t.TempDir(), "key.pem")
		require.NoError(t, os.WriteFile(name, text, 0o600))
		require.NoError(t, os.Chmod(name, mode))
		return name
	}
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaPair()), nil)
	pkcs1 = append(pkcs1, block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaPair().PublicKey), nil)...)
	require.NoError(t, provider.Check(t.Context(), open(t, local.Config{KeyFile: write(pkcs1, 0o600)})))
	require.NoError(t, provider.Check(t.Context(), open(t, local.Config{KeyFile: write(publicPEM(rsaPair()), 0o644)})))
	if runtime.GOOS == "windows" {
		return
	}
	for _, text := range [][]byte{privatePEM(rsaPair()), bothPEM(rsaPair()), pkcs1} {
		for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o620, 0o602} {
			_, err := local.NewProvider(local.Config{KeyFile: write(text, mode)})
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.ErrorContains(t, err, "chmod 600")
		}
	}
	// Whoever can change a public key can read what is written under it from then on.
	for _, mode := range []fs.FileMode{0o664, 0o646, 0o666} {
		_, err := local.NewProvider(local.Config{KeyFile: write(publicPEM(rsaPair()), mode)})
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, "chmod go-w")
	}
	_, err := local.NewProvider(local.Config{KeyFile: write(publicPEM(rsaPair())[:200], 0o600)})
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	require.ErrorContains(t, err, "key.pem: invalid encryption key: no whole PEM block")
}

func TestShortAESKeysConform(t *testing.T) {
	for _, size := range []int{16, 24} {
		providertest.Run(t,
			func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{Key: make([]byte, size)}) },
			func(t *testing.T) provider.EncryptionProvider {
				return open(t, local.Config{Key: bytes.Repeat([]byte{1}, size)})
			})
	}
}
