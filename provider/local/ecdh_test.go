package local_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

// ecPair is an EC key in PEM.
type ecPair struct {
	key             *ecdsa.PrivateKey
	public, private []byte
}

func newECPair(curve elliptic.Curve) ecPair {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	p := ecPair{key: key, public: block("PUBLIC KEY", public, err)}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	p.private = block("PRIVATE KEY", private, err)
	return p
}

// both returns a new text each time, since NewProvider zeroes it.
func (p ecPair) both() []byte { return append(bytes.Clone(p.public), p.private...) }

var ecCurves = []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}

func TestECKeysConform(t *testing.T) {
	race.SkipShort(t)
	for _, curve := range ecCurves {
		t.Run(curve.Params().Name, func(t *testing.T) {
			own, stranger, peer := newECPair(curve), newECPair(curve), newECPair(curve)
			t.Run("ephemeral", func(t *testing.T) {
				providertest.Run(t,
					func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{Key: own.both()}) },
					func(t *testing.T) provider.EncryptionProvider { return open(t, local.Config{Key: stranger.both()}) })
			})
			t.Run("static", func(t *testing.T) {
				providertest.Run(t,
					func(t *testing.T) provider.EncryptionProvider {
						return open(t, local.Config{Key: bytes.Clone(own.private), Peer: peer.public})
					},
					func(t *testing.T) provider.EncryptionProvider {
						return open(t, local.Config{Key: bytes.Clone(own.private), Peer: stranger.public})
					})
			})
		})
	}
}

// What one party of a static agreement writes, the other reads, and so does a private key alone.
func TestECParties(t *testing.T) {
	for _, curve := range ecCurves {
		a, b, c := newECPair(curve), newECPair(curve), newECPair(curve)
		alice := open(t, local.Config{Key: bytes.Clone(a.private), Peer: b.public})
		require.Equal(t, provider.Type("local_ecdh"), alice.Type())
		require.NoError(t, provider.Check(t.Context(), alice))
		pairs := map[string]string{"tenant": "42"}
		stored, err := (&message.Encrypter{Keyring: alice}).Encrypt(t.Context(), []byte("between us"), pairs)
		require.NoError(t, err)
		for name, reader := range map[string]local.Config{
			"the sender":           {Key: bytes.Clone(a.private), Peer: b.public},
			"the peer":             {Key: bytes.Clone(b.private), Peer: a.public},
			"the peer of whomever": {Key: bytes.Clone(b.private)},
		} {
			p := open(t, reader)
			require.NoError(t, provider.Check(t.Context(), p))
			got, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), stored, pairs)
			require.NoError(t, err, name)
			require.Equal(t, "between us", string(got))
			h, _, err := header.Parse(stored, header.Limits{})
			require.NoError(t, err)
			current, err := p.IsCurrent(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: h.EncryptedDataKeys[0], Context: pairs, Size: 32})
			require.NoError(t, err)
			require.Equal(t, name != "the peer", current, name)
		}
		for name, reader := range map[string]struct {
			config local.Config
			want   error
		}{
			"a sender of ephemeral keys": {local.Config{Key: bytes.Clone(a.private)}, provider.ErrUntrustedKey},
			"another peer":               {local.Config{Key: bytes.Clone(b.private), Peer: c.public}, provider.ErrUntrustedKey},
			"a stranger":                 {local.Config{Key: bytes.Clone(c.private)}, provider.ErrUntrustedKey},
			"the public key":             {local.Config{Key: bytes.Clone(b.public)}, provider.ErrKeyUsage},
		} {
			_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{open(t, reader.config)}}).Decrypt(t.Context(), stored, pairs)
			require.ErrorIs(t, err, reader.want, name)
		}
		_, err = open(t, local.Config{Key: bytes.Clone(a.private)}).GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrKeyUsage)
		require.ErrorContains(t, err, "or a peer")
	}
}

// A data key with any byte changed is refused, whoever's key is asked.
func TestChangedECDataKeys(t *testing.T) {
	race.SkipShort(t)
	for _, curve := range ecCurves {
		own, peer := newECPair(curve), newECPair(curve)
		for _, p := range map[string]provider.Provider{
			"ephemeral": open(t, local.Config{Key: own.both()}),
			"static":    open(t, local.Config{Key: bytes.Clone(own.private), Peer: peer.public}),
		} {
			pairs := map[string]string{"tenant": "42"}
			made, err := p.GenerateDataKey(t.Context(), pairs)
			require.NoError(t, err)
			require.NoError(t, made.Close())
			adversary.ChangedDataKeys(t, p, made.EncryptedKey, pairs)
			for _, cut := range []int{0, 1, 31, 64, len(made.EncryptedKey.Ciphertext) - 1} {
				wrapped := made.EncryptedKey
				wrapped.Ciphertext = wrapped.Ciphertext[:cut]
				_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: pairs, Size: 32})
				require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			}
		}
	}
}

func TestECWrappedKeyLayout(t *testing.T) {
	own := newECPair(elliptic.P384())
	p := open(t, local.Config{Key: own.both()})
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, made.Close())
	require.Equal(t, "raw-ecdh", made.EncryptedKey.ProviderID)
	info := made.EncryptedKey.ProviderInfo
	require.Len(t, info, 107)
	require.EqualValues(t, 1, info[0])
	require.EqualValues(t, 49, binary.BigEndian.Uint32(info[1:]))
	require.Equal(t, elliptic.MarshalCompressed(own.key.Curve, own.key.X, own.key.Y), info[5:54])
	require.EqualValues(t, 49, binary.BigEndian.Uint32(info[54:]))
	require.Len(t, made.EncryptedKey.Ciphertext, 32+32+32+16)
	require.Equal(t, "ECDH public key "+p.KeyID(), message.KeyName(made.EncryptedKey))
	described, err := p.GetKeyInfo(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "ECDH-P-384", described.Algorithm)
}

func TestBadECConfig(t *testing.T) {
	own, other, longer := newECPair(elliptic.P256()), newECPair(elliptic.P256()), newECPair(elliptic.P384())
	for name, c := range map[string]struct {
		config local.Config
		says   string
	}{
		"no pair":          {local.Config{Key: append(bytes.Clone(own.public), other.private...)}, "no pair"},
		"no pair of kinds": {local.Config{Key: append(bytes.Clone(own.public), privatePEM(rsaPair())...)}, "no pair"},
		"curves":           {local.Config{Key: bytes.Clone(own.private), Peer: longer.public}, "the peer's is on P-384"},
		"private peer":     {local.Config{Key: bytes.Clone(own.private), Peer: other.private}, "no public EC key"},
		"RSA peer":         {local.Config{Key: bytes.Clone(own.private), Peer: publicPEM(rsaPair())}, "no public EC key"},
		"peer is garbage":  {local.Config{Key: bytes.Clone(own.private), Peer: []byte("x")}, "the peer's key"},
		"public, peer":     {local.Config{Key: bytes.Clone(own.public), Peer: other.public}, "give the own private key"},
		"RSA, peer":        {local.Config{Key: privatePEM(rsaPair()), Peer: other.public}, "this is an RSA key"},
		"AES, peer":        {local.Config{Key: make([]byte, 32), Peer: other.public}, "this is an AES key"},
		"two peers":        {local.Config{Key: bytes.Clone(own.private), Peer: other.public, PeerFile: "x"}, "both a peer's"},
		"name":             {local.Config{Key: bytes.Clone(own.private), Name: "x"}, "by its public half"},
		"hash":             {local.Config{Key: bytes.Clone(own.private), Hash: crypto.SHA256}, "this is an EC key"},
		"P-224":            {local.Config{Key: newECPair(elliptic.P224()).both()}, "P-256, P-384 and P-521"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := local.NewProvider(c.config)
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, p)
		})
	}
}

// openssl ecparam -genkey writes a key with its parameters before it, in SEC 1's form.
func TestECKeyFiles(t *testing.T) {
	own, peer := newECPair(elliptic.P256()), newECPair(elliptic.P256())
	der, err := x509.MarshalECPrivateKey(own.key)
	text := append(block("EC PARAMETERS", []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), nil), block("EC PRIVATE KEY", der, err)...)
	folder := t.TempDir()
	file, peerFile := filepath.Join(folder, "own.pem"), filepath.Join(folder, "peer.pem")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	require.NoError(t, os.WriteFile(peerFile, peer.public, 0o644))
	p := open(t, local.Config{KeyFile: file, PeerFile: peerFile})
	require.NoError(t, provider.Check(t.Context(), p))
	_, err = local.NewProvider(local.Config{KeyFile: file, PeerFile: filepath.Join(folder, "none.pem")})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "the peer's key")
}
