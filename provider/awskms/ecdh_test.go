package awskms_test

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/provider/providertest"
)

func TestECKeysConform(t *testing.T) {
	race.SkipShort(t)
	server := kmstest.NewServer(t)
	for _, spec := range ecSpecs {
		own, other, peer := newKMSPair(t, server, spec), newKMSPair(t, server, spec), newECPair(t, spec)
		with := func(key ecPair, peer string) func(t *testing.T) provider.EncryptionProvider {
			return func(t *testing.T) provider.EncryptionProvider {
				return later(t, server, key.arn, func(c *awskms.Config) {
					if peer != "" {
						c.Peer = []byte(peer)
					}
				})
			}
		}
		t.Run(spec, func(t *testing.T) {
			t.Run("ephemeral", func(t *testing.T) { providertest.Run(t, with(own, ""), with(other, "")) })
			t.Run("static", func(t *testing.T) { providertest.Run(t, with(own, peer.public), with(own, newECPair(t, spec).public)) })
		})
	}
}

// An EC key takes one call of KMS for each data key, or none to write without a peer.
func TestCallsUnderAnECKey(t *testing.T) {
	server := kmstest.NewServer(t)
	own, peer := newKMSPair(t, server, "ECC_NIST_P256"), newECPair(t, "ECC_NIST_P256")
	for _, c := range []struct {
		peer        string
		write, read int
	}{{"", 0, 1}, {peer.public, 1, 1}} {
		configure := func(c2 *awskms.Config) {
			if c.peer != "" {
				c2.Peer = []byte(c.peer)
			}
		}
		p := later(t, server, own.arn, configure)
		require.NoError(t, provider.Check(t.Context(), p))
		server.Reset()
		made, err := p.GenerateDataKey(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, made.Close())
		require.Equal(t, own.arn, made.KeyID)
		require.Equal(t, c.write, server.Calls(""))
		require.Equal(t, c.write, server.Calls("DeriveSharedSecret"))
		server.Reset()
		request := &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32}
		got, err := p.UnwrapDataKey(t.Context(), request)
		require.NoError(t, err)
		require.NoError(t, got.Close())
		require.Equal(t, c.read, server.Calls(""))
		require.Equal(t, c.read, server.Calls("DeriveSharedSecret"))

		// With the public key, nothing else is asked for.
		server.Reset()
		p = later(t, server, own.arn, configure, func(c *awskms.Config) { c.PublicKey = []byte(own.public) })
		current, err := p.IsCurrent(t.Context(), request)
		require.NoError(t, err)
		require.True(t, current)
		require.Zero(t, server.Calls(""))
		got, err = p.UnwrapDataKey(t.Context(), request)
		require.NoError(t, err)
		require.NoError(t, got.Close())
		require.Equal(t, 1, server.Calls(""))

		// An answer about another key is refused, and so is one without a secret.
		for name, change := range map[string]func(map[string]any){
			"another key by its ID": func(m map[string]any) { m["KeyId"] = "other" },
			"another key":           func(m map[string]any) { m["KeyId"] = "arn:aws:kms:eu-west-1:111122223333:key/other" },
			"no secret":             func(m map[string]any) { delete(m, "SharedSecret") },
			"another":               func(m map[string]any) { m["SharedSecret"] = make([]byte, 32) },
		} {
			remove := server.Inject(kmstest.Fault{Operation: "DeriveSharedSecret", Do: kmstest.Answer(change)})
			_, err := p.UnwrapDataKey(t.Context(), request)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, name)
			requireOneSentinel(t, err)
			remove()
		}
		remove := server.Inject(kmstest.Fault{Operation: "DeriveSharedSecret", Do: kmstest.Error("KMSInternalException", "down")})
		_, err = p.UnwrapDataKey(t.Context(), request)
		require.ErrorIs(t, err, provider.ErrProviderUnavailable)
		remove()
	}
}

// TestECKeysOfLocalStack wraps data keys under keys of another KMS than kmstest.
func TestECKeysOfLocalStack(t *testing.T) {
	client := newClient(t, emulator.LocalStack(t), 1)
	for _, spec := range ecSpecs {
		key, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpec(spec), KeyUsage: types.KeyUsageTypeKeyAgreement})
		require.NoError(t, err)
		for _, peer := range [][]byte{nil, []byte(newECPair(t, spec).public)} {
			p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *key.KeyMetadata.Arn, Client: client, Peer: peer})
			require.NoError(t, err)
			require.NoError(t, provider.Check(t.Context(), p))
		}
	}
}

// Keys of other kinds ask KMS nothing about a data key of key agreement.
func TestECDataKeysAreNoOthers(t *testing.T) {
	server := kmstest.NewServer(t)
	writer, err := local.NewProvider(local.Config{Key: []byte(newECPair(t, "ECC_NIST_P256").public)})
	require.NoError(t, err)
	made, err := writer.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, made.Close())
	request := &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32}
	for _, key := range []kmstest.Key{{}, {Spec: "RSA_2048"}, {Spec: "ECC_NIST_P384"}, {Spec: "ECC_NIST_P256"}} {
		p := later(t, server, server.CreateKey(key).ARN)
		require.NoError(t, provider.Check(t.Context(), p))
		server.Reset()
		_, err := p.UnwrapDataKey(t.Context(), request)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		requireOneSentinel(t, err)
		current, err := p.IsCurrent(t.Context(), request)
		require.NoError(t, err)
		require.False(t, current)
		require.Zero(t, server.Calls(""))
	}
}

func TestChangedECDataKeys(t *testing.T) {
	race.SkipShort(t)
	server := kmstest.NewServer(t)
	for _, spec := range ecSpecs {
		own, peer := newKMSPair(t, server, spec), newECPair(t, spec)
		p := later(t, server, own.arn, func(c *awskms.Config) { c.Peer = []byte(peer.public) })
		pairs := map[string]string{"tenant": "42"}
		made, err := p.GenerateDataKey(t.Context(), pairs)
		require.NoError(t, err)
		require.NoError(t, made.Close())
		adversary.ChangedDataKeys(t, p, made.EncryptedKey, pairs)
	}
}

func TestBadECConfig(t *testing.T) {
	server := kmstest.NewServer(t)
	symmetric, rsa := server.CreateKey(kmstest.Key{}), newKMSRSA(t, server)
	own, peer, longer := newKMSPair(t, server, "ECC_NIST_P256"), newECPair(t, "ECC_NIST_P256"), newECPair(t, "ECC_NIST_P384")
	for name, c := range map[string]struct {
		config awskms.Config
		says   string
	}{
		"peer of a symmetric key": {awskms.Config{KeyID: symmetric.ARN, Peer: []byte(peer.public)}, "a peer is for EC keys"},
		"peer of an RSA key":      {awskms.Config{KeyID: rsa.arn, PublicKey: []byte(rsa.public), Peer: []byte(peer.public)}, "a peer is for EC keys"},
		"RSA peer":                {awskms.Config{KeyID: own.arn, Peer: []byte(rsa.public)}, "the peer's key is no EC key"},
		"curves":                  {awskms.Config{KeyID: own.arn, PublicKey: []byte(own.public), Peer: []byte(longer.public)}, "both must be on one"},
		"two peers":               {awskms.Config{KeyID: own.arn, Peer: []byte(peer.public), PeerFile: "x"}, "both Peer and PeerFile"},
		"private peer":            {awskms.Config{KeyID: own.arn, Peer: []byte(peer.private)}, "no PEM text"},
	} {
		c.config.Client = newClient(t, server.URL, 1)
		_, err := awskms.NewProvider(t.Context(), c.config)
		require.ErrorIs(t, err, provider.ErrInvalidKey, name)
		require.ErrorContains(t, err, c.says, name)
	}
	// Of a key that is checked later, the curve is known when it is first needed.
	p := later(t, server, own.arn, func(c *awskms.Config) { c.Peer = []byte(longer.public) })
	_, err := p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	for _, key := range []kmstest.Key{{Spec: "ECC_NIST_P256", Usage: "SIGN_VERIFY"}, {Spec: "ECC_SECG_P256K1"}} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: server.CreateKey(key).ARN, Client: newClient(t, server.URL, 1)})
		require.ErrorIs(t, err, provider.ErrKeyUsage)
	}
}

func newKMSRSA(t *testing.T, server *kmstest.Server) ecPair {
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	return ecPair{arn: key.ARN, public: string(publicKey(t, server, key))}
}

// A message for an EC key of KMS and a further recipient opens by each.
func TestECRecipients(t *testing.T) {
	server := kmstest.NewServer(t)
	own := newKMSPair(t, server, "ECC_NIST_P256")
	p := later(t, server, own.arn)
	recovery, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{1}, 32)})
	require.NoError(t, err)
	sealed, err := (&message.Encrypter{Keyring: recovery, Recipients: []provider.Wrapper{p}}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	h, _, err := header.Parse(sealed, header.Limits{})
	require.NoError(t, err)
	require.Len(t, h.EncryptedDataKeys, 2)
	for _, keyring := range []provider.Unwrapper{p, recovery} {
		plain, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{keyring}}).Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err)
		require.Equal(t, "text", string(plain))
	}
}
