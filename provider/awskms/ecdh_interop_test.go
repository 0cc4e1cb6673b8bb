package awskms_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// ecSpecs are the key specs of KMS for key agreement, in the specification's names of curves too.
var ecSpecs = []string{"ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"}

var curveOfSpec = map[string]elliptic.Curve{"ECC_NIST_P256": elliptic.P256(), "ECC_NIST_P384": elliptic.P384(), "ECC_NIST_P521": elliptic.P521()}

// ecPair is an EC key in PEM. One in KMS has an ARN in place of the private half.
type ecPair struct{ arn, public, private string }

func newECPair(t testing.TB, spec string) ecPair {
	key, err := ecdsa.GenerateKey(curveOfSpec[spec], rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return ecPair{public: string(publicPEM(der)), private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))}
}

func newKMSPair(t testing.TB, server *kmstest.Server, spec string) ecPair {
	key := server.CreateKey(kmstest.Key{Spec: spec})
	return ecPair{arn: key.ARN, public: string(publicKey(t, server, key))}
}

type ecdhKey struct {
	ARN     string `json:"arn,omitempty"`
	Private string `json:"private,omitempty"`
	Peer    []byte `json:"peer,omitempty"` // DER
}

// ecdhRole is a keyring of each side: an own key, and the peer's public half. Without an own key it
// encrypts under ephemeral keys; without a peer it decrypts from whomever.
type ecdhRole struct {
	name   string
	ours   provider.Keyring
	theirs ecdhKey
}

func newRole(t *testing.T, server *kmstest.Server, name string, own, peer ecPair) ecdhRole {
	r := ecdhRole{name: name, theirs: ecdhKey{ARN: own.arn, Private: own.private}}
	if peer.public != "" {
		block, _ := pem.Decode([]byte(peer.public))
		r.theirs.Peer = block.Bytes
	}
	var err error
	switch {
	case own.arn != "":
		c := awskms.Config{KeyID: own.arn, Client: newClient(t, server.URL, 1)}
		if peer.public != "" {
			c.Peer = []byte(peer.public)
		}
		r.ours, err = awskms.NewProvider(t.Context(), c)
	case own.private == "":
		r.ours, err = local.NewProvider(local.Config{Key: []byte(peer.public)})
	case peer.public == "":
		r.ours, err = local.NewProvider(local.Config{Key: []byte(own.private)})
	default:
		r.ours, err = local.NewProvider(local.Config{Key: []byte(own.private), Peer: []byte(peer.public)})
	}
	require.NoError(t, err)
	return r
}

// Messages under raw EC keys and those of KMS go both ways between pikokms and AWS's Material
// Providers Library, in all of its key agreement schemas.
func TestTheMaterialProvidersLibraryUnderECKeys(t *testing.T) {
	server := kmstest.NewServer(t)
	ask := startKeyring(t, server, "ecdh_keyring.py")
	ours, theirs, refused := 0, 0, 0
	for _, spec := range ecSpecs {
		nobody, a, b, k := ecPair{}, newECPair(t, spec), newECPair(t, spec), newKMSPair(t, server, spec)
		stranger := newECPair(t, spec)
		role := func(name string, own, peer ecPair) ecdhRole { return newRole(t, server, name, own, peer) }
		for _, c := range []struct {
			writer  ecdhRole
			readers []ecdhRole
		}{
			{role("ephemeral", nobody, a), []ecdhRole{role("discovery", a, nobody)}},
			{role("static", a, b), []ecdhRole{role("discovery", b, nobody), role("static", b, a), role("its sender", a, b)}},
			{role("ephemeral to KMS", nobody, k), []ecdhRole{role("discovery in KMS", k, nobody)}},
			{role("static to KMS", a, k), []ecdhRole{role("discovery in KMS", k, nobody), role("static in KMS", k, a), role("its sender", a, k)}},
			{role("static of KMS", k, a), []ecdhRole{role("discovery", a, nobody), role("static", a, k), role("its sender", k, a)}},
		} {
			wrong := role("a stranger", stranger, nobody)
			for _, suite := range []header.Suite{0x0178, 0x0478, 0x0578} {
				for _, context := range []map[string]string{nil, {"tenant": "42"}, {"ключ": "значение", "a": "", "zz": "1", "Z": "2", "é": "3", "\U0001F511": "4"}} {
					name := fmt.Sprintf("%s, %s, %04x, %d pairs", spec, c.writer.name, uint16(suite), len(context))
					request := keyringRequest{Op: "encrypt", Curve: spec, Key: c.writer.theirs, Suite: suite, Context: context, Data: []byte("of theirs")}
					stored := ask(t, request)
					require.Empty(t, stored.Error, name)
					var own []byte
					if suite.Commits() {
						var err error
						own, err = (&message.Encrypter{Keyring: c.writer.ours, Suite: suite}).Encrypt(t.Context(), []byte("of ours"), context)
						require.NoError(t, err, name)
						h, _, err := header.Parse(own, header.Limits{})
						require.NoError(t, err)
						other, _, err := header.Parse(stored.Data, header.Limits{})
						require.NoError(t, err)
						require.Equal(t, other.EncryptedDataKeys[0].ProviderID, h.EncryptedDataKeys[0].ProviderID, name)
						require.Equal(t, other.Size(), h.Size(), name)
						request.Op, request.Data, request.Key = "decrypt", own, wrong.theirs
						require.NotEmpty(t, ask(t, request).Error, name)
						refused++
					}
					for _, reader := range c.readers {
						d := message.Decrypter{Keyrings: []provider.Unwrapper{reader.ours}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
						got, _, err := d.Decrypt(t.Context(), stored.Data, context)
						require.NoError(t, err, name+", "+reader.name)
						require.Equal(t, "of theirs", string(got))
						theirs++
						if own == nil {
							continue // pikokms only reads it
						}
						opened := ask(t, keyringRequest{Op: "decrypt", Curve: spec, Key: reader.theirs, Suite: suite, Data: own})
						require.Empty(t, opened.Error, name+", "+reader.name)
						require.Equal(t, "of ours", string(opened.Data))
						ours++
					}
					_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{wrong.ours}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}).Decrypt(t.Context(), bytes.Clone(stored.Data), context)
					require.ErrorIs(t, err, provider.ErrUntrustedKey, name)
				}
			}
		}
	}
	t.Logf("%d messages of ours opened by the library, %d of the library's opened here, %d refused by both to a stranger", ours, theirs, refused)
}
