package awskms_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/service"
)

func publicPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// publicKey returns the public half of a server's key in PEM.
func publicKey(t testing.TB, server *kmstest.Server, key kmstest.Key) []byte {
	t.Helper()
	out, err := newClient(t, server.URL, 1, as(key.Account, key.Region)).GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &key.ARN})
	require.NoError(t, err)
	return publicPEM(out.PublicKey)
}

// With the public key a writer needs no KMS and no credentials, and a reader kms:Decrypt alone.
func TestWritingUnderAnRSAKeyAsksNothing(t *testing.T) {
	server := kmstest.NewServer(t)
	for _, spec := range []string{"RSA_2048", "RSA_3072", "RSA_4096"} {
		key := server.CreateKey(kmstest.Key{Spec: spec})
		public := publicKey(t, server, key)
		for _, hash := range []crypto.Hash{0, crypto.SHA1, crypto.SHA256} {
			server.Reset()
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			writer, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, PublicKey: public, Hash: hash, Endpoint: server.URL})
			require.NoError(t, err)
			e := message.Encrypter{Keyring: writer}
			stored, err := e.Encrypt(t.Context(), []byte("content"), map[string]string{"tenant": "42"})
			require.NoError(t, err)
			require.Zero(t, server.Calls(""))

			reader := later(t, server, key.ARN, func(c *awskms.Config) { c.Hash = hash })
			require.NoError(t, opened(t, stored, reader))
			require.Equal(t, 1, server.Calls(""))
			require.Equal(t, 1, server.Calls("Decrypt"))
			require.Empty(t, server.Requests()[0].EncryptionContext)
			other := later(t, server, key.ARN, func(c *awskms.Config) { c.Hash = crypto.SHA1 + crypto.SHA256 - max(hash, crypto.SHA1) })
			if hash != 0 {
				require.ErrorIs(t, opened(t, stored, other), provider.ErrDecryptionFailed)
			}
			_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{writer}}).Decrypt(t.Context(), stored, nil)
			require.ErrorIs(t, err, provider.ErrAccessDenied, "the writer cannot read")
		}
	}
}

// Without it, the public key is asked for once.
func TestAPublicKeyIsAskedForOnce(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048", Alias: "alias/uploads"})
	for _, keyID := range []string{key.ARN, key.ID, "alias/uploads"} {
		p := later(t, server, keyID)
		server.Reset()
		remove := server.Inject(kmstest.Fault{Operation: "GetPublicKey", Do: kmstest.Error("KMSInternalException", "down")})
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		remove()
		server.Reset()
		for range 3 {
			made, err := p.GenerateDataKey(t.Context(), nil)
			require.NoError(t, err)
			require.Equal(t, 32, made.PlaintextKey.Len())
			require.Equal(t, key.ARN, made.KeyID)
			require.Equal(t, "aws-kms-rsa", made.EncryptedKey.ProviderID)
			require.Equal(t, key.ARN, message.KeyName(made.EncryptedKey))
			require.Len(t, made.EncryptedKey.Ciphertext, 256)
			require.NoError(t, made.Close())
		}
		require.Equal(t, 1, server.Calls(""))
		require.Equal(t, 1, server.Calls("GetPublicKey"))
	}
}

// An RSA key of KMS takes no encryption context, so the data key carries a digest of it.
func TestTheContextIsBoundToADataKeyUnderAnRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	p := later(t, server, key.ARN)
	made, err := p.GenerateDataKey(t.Context(), map[string]string{"tenant": "42"})
	require.NoError(t, err)
	defer made.Close()
	for _, wrong := range []map[string]string{nil, {"tenant": "43"}, {"tenant": "42", "more": ""}} {
		_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: wrong, Size: 32})
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		require.ErrorContains(t, err, "for another encryption context")
		requireOneSentinel(t, err)
	}
	_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: map[string]string{"tenant": "42"}, Size: 16})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	// Something else that was encrypted under the key is no data key.
	algorithm := types.EncryptionAlgorithmSpecRsaesOaepSha256
	out, err := newClient(t, server.URL, 1).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ARN, Plaintext: make([]byte, 32), EncryptionAlgorithm: algorithm})
	require.NoError(t, err)
	made.EncryptedKey.Ciphertext = out.CiphertextBlob
	_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
}

func TestSignedMessagesUnderAnRSAKeyAreRefused(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	p := later(t, server, key.ARN)
	e := message.Encrypter{Keyring: p, Suite: 0x0578}
	_, err := e.Encrypt(t.Context(), []byte("content"), nil)
	require.ErrorIs(t, err, provider.ErrKeyUsage)
	require.ErrorContains(t, err, "without a signature")
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Context: map[string]string{header.PublicKeyName: "x"}, Size: 32})
	require.ErrorIs(t, err, provider.ErrKeyUsage)
}

// Strings under an RSA key are messages, whatever their size.
func TestStringsUnderAnRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	p := later(t, server, key.ID)
	encrypted, err := envelope.Seal(t.Context(), p, "short", map[string]string{"a": "b"})
	require.NoError(t, err)
	require.Equal(t, key.ARN, encrypted.KeyID)
	server.Reset()
	for _, keyID := range []string{"", key.ID, key.ARN} {
		got, err := envelope.Open(t.Context(), p.Under(keyID), encrypted.Ciphertext, map[string]string{"a": "b"})
		require.NoError(t, err)
		require.Equal(t, "short", got)
	}
	require.Equal(t, 3, server.Calls("Decrypt"))
	_, err = envelope.Open(t.Context(), p, "AAAA", nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.Equal(t, 3, server.Calls("Decrypt"))
}

// Strings that KMS itself encrypted stay readable when an RSA key takes the symmetric key's place.
func TestStringsFromBeforeAnRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	symmetric, rsa := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	pairs := map[string]string{"a": "b"}
	old, err := envelope.Seal(t.Context(), later(t, server, symmetric.ARN), "old", pairs)
	require.NoError(t, err)
	p := later(t, server, rsa.ARN, func(c *awskms.Config) { c.TrustedKeys = []string{symmetric.ARN} })
	_, err = envelope.Seal(t.Context(), p, "new", pairs) // so it is known that the key is of RSA
	require.NoError(t, err)
	for _, under := range []provider.EncryptionProvider{p, p.Under(symmetric.ARN), service.New(p, service.Config{})} {
		got, err := envelope.Open(t.Context(), under, old.Ciphertext, pairs)
		require.NoError(t, err)
		require.Equal(t, "old", got)
	}
}

// A message with two recipients: a symmetric key and an RSA key, each of which opens it.
func TestRecipientsOfBothKinds(t *testing.T) {
	server := kmstest.NewServer(t)
	symmetric, rsa := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	for _, order := range [][]kmstest.Key{{symmetric, rsa}, {rsa, symmetric}} {
		e := message.Encrypter{Keyring: later(t, server, order[0].ARN), Recipients: []provider.Wrapper{later(t, server, order[1].ARN)}}
		stored, err := e.Encrypt(t.Context(), []byte("content"), map[string]string{"tenant": "42"})
		require.NoError(t, err)
		for _, key := range order {
			require.NoError(t, opened(t, stored, later(t, server, key.ARN)))
		}
		// A key that is trusted, not the provider's own, opens it, too.
		third := server.CreateKey(kmstest.Key{})
		require.NoError(t, opened(t, stored, later(t, server, third.ARN, func(c *awskms.Config) { c.TrustedKeys = []string{rsa.ARN} })))
	}
}

// A multi-Region RSA key is one key in all its Regions.
func TestAReplicaOfAnRSAKeyOpensItsMessages(t *testing.T) {
	server := kmstest.NewServer(t)
	here := server.CreateKey(kmstest.Key{Spec: "RSA_2048", MultiRegion: true})
	there := server.Replicate(here.ARN, "us-east-1")
	stored := sealed(t, server, here.ARN)
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: there.ARN, Client: newClient(t, server.URL, 1, as(kmstest.Account, "us-east-1"))})
	require.NoError(t, err)
	server.Reset()
	require.NoError(t, opened(t, stored, p))
	require.Equal(t, there.ARN, server.Requests()[0].KeyID)
}

// A KMS that answers with another public key would read what is written from then on.
func TestAPublicKeyThatIsNotTheKeysIsRefused(t *testing.T) {
	server := kmstest.NewServer(t)
	key, other := server.CreateKey(kmstest.Key{Spec: "RSA_2048"}), server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	shortDER, err := x509.MarshalPKIXPublicKey(&short.PublicKey)
	require.NoError(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	curveDER, err := x509.MarshalPKIXPublicKey(&curve.PublicKey)
	require.NoError(t, err)
	edwards, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	edwardsDER, err := x509.MarshalPKIXPublicKey(edwards)
	require.NoError(t, err)
	for name, lie := range map[string]map[string]any{
		"another key's": {"KeyId": other.ARN}, "nobody's": {"KeyId": nil}, "none": {"PublicKey": nil}, "empty": {"PublicKey": []byte{}},
		"garbage": {"PublicKey": []byte("?")}, "short": {"PublicKey": shortDER}, "a curve": {"PublicKey": curveDER},
	} {
		p := later(t, server, key.ARN)
		remove := server.Inject(kmstest.Fault{Operation: "GetPublicKey", Do: answer(lie)})
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrEncryptionFailed, name)
		requireOneSentinel(t, err)
		remove()
		made, err := p.GenerateDataKey(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, made.Close())
	}
	for says, der := range map[string][]byte{"does not parse": []byte("?"), "1024 bits": shortDER, "P-256, P-384 and P-521": edwardsDER} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, PublicKey: publicPEM(der)})
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, says)
	}
}

// A public key from a file that others can change would let them read what is written.
func TestAPublicKeyFileThatOthersCanChangeIsRefused(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	file := filepath.Join(t.TempDir(), "store.pem")
	require.NoError(t, os.WriteFile(file, publicKey(t, server, key), 0o644))
	c := awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1), PublicKeyFile: file}
	p, err := awskms.NewProvider(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, provider.Check(t.Context(), p))
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(file, 0o664))
		_, err = awskms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, "chmod go-w")
	}
	c.PublicKeyFile += ".no"
	_, err = awskms.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
