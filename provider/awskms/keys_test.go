package awskms_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func open(t *testing.T, server *kmstest.Server, keyID string, trusted ...string) ability {
	t.Helper()
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1), TrustedKeys: trusted})
	require.NoError(t, err)
	return p.(ability)
}

// decrypted returns the keys that KMS was asked about by Decrypt since the last call.
func decrypted(server *kmstest.Server) (keys []string) {
	for _, r := range server.Requests() {
		if r.Operation == "Decrypt" {
			keys = append(keys, r.KeyID)
		}
	}
	server.Reset()
	return keys
}

func TestEncryptUnderTheKeyThatARequestNames(t *testing.T) {
	server := kmstest.NewServer(t)
	one, two := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Alias: "alias/two"})
	p := open(t, server, one.ID)
	for keyID, want := range map[string]string{"": one.ARN, one.ID: one.ARN, one.ARN: one.ARN, two.ID: two.ARN, two.ARN: two.ARN, "alias/two": two.ARN} {
		for _, plaintext := range []string{"short", strings.Repeat("long ", 2000)} {
			encrypted, err := envelope.Seal(t.Context(), p.Under(keyID), plaintext, nil)
			require.NoError(t, err, keyID)
			require.Equal(t, want, encrypted.KeyID)
			for _, named := range []string{"", want, keyID} {
				decrypted, err := envelope.Open(t.Context(), p.Under(named), encrypted.Ciphertext, nil)
				require.NoError(t, err)
				require.Equal(t, plaintext, decrypted)
			}
		}

		var stored bytes.Buffer
		server.Reset()
		w, err := (&message.Encrypter{Keyring: p.Under(keyID)}).NewWriter(t.Context(), &stored, nil)
		require.NoError(t, err)
		_, err = io.WriteString(w, "streamed")
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Contains(t, stored.String(), want)
		r, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).NewReader(t.Context(), &stored, nil)
		require.NoError(t, err)
		plaintext, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "streamed", string(plaintext))
		require.Equal(t, 2, server.Calls(""), "a stream is one call of KMS each way")
	}
	_, err := envelope.Seal(t.Context(), p.Under("00000000-0000-0000-0000-000000000000"), "x", nil)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.ErrorContains(t, err, "00000000-0000-0000-0000-000000000000")
}

func TestAnAliasThatIsMovedIsFollowed(t *testing.T) {
	server := kmstest.NewServer(t)
	own, before, after := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Alias: "alias/app"}), server.CreateKey(kmstest.Key{})
	p := open(t, server, own.ARN)
	first, err := envelope.Seal(t.Context(), p.Under("alias/app"), "x", nil)
	require.NoError(t, err)
	require.Equal(t, before.ARN, first.KeyID)
	_, err = newClient(t, server.URL, 1).UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/app"), TargetKeyId: aws.String(after.ID)})
	require.NoError(t, err)
	second, err := envelope.Seal(t.Context(), p.Under("alias/app"), "x", nil)
	require.NoError(t, err)
	require.Equal(t, after.ARN, second.KeyID)
	for _, text := range []string{first.Ciphertext, second.Ciphertext} {
		_, err := envelope.Open(t.Context(), p.Under("alias/app"), text, nil)
		require.NoError(t, err)
	}
}

// What a ciphertext or a request to decrypt names is not trusted for that, and KMS is not asked.
func TestDecryptAsksAboutTrustedKeysOnly(t *testing.T) {
	server := kmstest.NewServer(t)
	one, two := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{Alias: "alias/two"})
	other := open(t, server, two.ARN)
	short, err := envelope.Seal(t.Context(), other, "short", nil)
	require.NoError(t, err)
	long, err := envelope.Seal(t.Context(), other, strings.Repeat("long ", 2000), nil)
	require.NoError(t, err)
	key, err := other.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer key.Close()

	p := open(t, server, one.ARN)
	for range 2 {
		server.Reset()
		for _, keyID := range []string{two.ID, two.ARN, "alias/two"} {
			_, err := envelope.Open(t.Context(), p.Under(keyID), short.Ciphertext, nil)
			require.ErrorIs(t, err, provider.ErrUntrustedKey)
			require.ErrorContains(t, err, "TrustedKeys")
		}
		_, err = envelope.Open(t.Context(), p, long.Ciphertext, nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		_, err = p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: key.EncryptedKey, Size: 32})
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
		require.Zero(t, server.Calls(""))
		_, err = envelope.Open(t.Context(), p, short.Ciphertext, nil)
		require.ErrorIs(t, err, provider.ErrDecryptionFailed)
		require.Equal(t, []string{one.ARN}, decrypted(server))
	}

	p = open(t, server, one.ARN, two.ARN)
	for _, text := range []string{short.Ciphertext, long.Ciphertext} {
		for _, keyID := range []string{"", two.ID, two.ARN} {
			_, err := envelope.Open(t.Context(), p.Under(keyID), text, nil)
			require.NoError(t, err)
		}
	}
	unwrapped, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: key.EncryptedKey, Size: 32})
	require.NoError(t, err)
	require.NoError(t, unwrapped.Close())
}

func TestAKeyThatIsDeniedDoesNotHideAnother(t *testing.T) {
	server := kmstest.NewServer(t)
	one, two, three := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	p := open(t, server, one.ARN, three.ARN)
	encrypted, err := envelope.Seal(t.Context(), p.Under(two.ARN), "x", nil)
	require.NoError(t, err)
	server.Inject(kmstest.Fault{Operation: "Decrypt", Key: one.ARN, When: func(r kmstest.Request) bool { return r.KeyID == one.ARN }, Do: kmstest.Deny()})
	server.SetState(three.ARN, "Disabled")
	server.Reset()
	_, err = envelope.Open(t.Context(), p, encrypted.Ciphertext, nil)
	require.NoError(t, err)
	require.Equal(t, []string{one.ARN, two.ARN}, decrypted(server), "the newest key goes before older ones")

	server.Heal()
	_, err = envelope.Open(t.Context(), p, "AAAA", nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)
	require.Equal(t, []string{one.ARN}, decrypted(server), "what is damaged is damaged under every key")

	server.Inject(kmstest.Fault{Operation: "Decrypt", Do: kmstest.Error("KMSInternalException", "down")})
	_, err = envelope.Open(t.Context(), p, encrypted.Ciphertext, nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.NotContains(t, decrypted(server), two.ARN, "an outage is every key's")
}

// A lie of the key service about the key that it encrypted under makes no key trusted.
func TestAnAnswerForAnotherKeyIsRefused(t *testing.T) {
	server := kmstest.NewServer(t)
	one, two := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	for _, lie := range []string{one.ARN, "", "nonsense", strings.Replace(one.ARN, ":key/", ":alias/", 1)} {
		p := open(t, server, one.ARN)
		remove := server.Inject(kmstest.Fault{Do: kmstest.Answer(func(members map[string]any) { members["KeyId"] = lie })})
		for _, keyID := range []string{two.ID, two.ARN} {
			_, err := envelope.Seal(t.Context(), p.Under(keyID), "x", nil)
			require.ErrorIs(t, err, provider.ErrEncryptionFailed)
			_, err = p.Under(keyID).GenerateDataKey(t.Context(), nil)
			require.ErrorIs(t, err, provider.ErrEncryptionFailed)
		}
		remove()
		_, err := envelope.Open(t.Context(), p.Under(two.ARN), "AAAA", nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey)
	}
}

func TestTrustedKeysAreARNsOfKeys(t *testing.T) {
	for _, keyID := range []string{"", "two", "alias/app", "arn:aws:kms:eu-west-1:111122223333:alias/app", "arn:aws:kms:us-east-1:111122223333:key/two"} {
		_, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: "one", Region: "eu-west-1", TrustedKeys: []string{keyID}})
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, "TrustedKeys")
	}
}

// What a provider of Under wraps is current if it is under that key, and not under the own one.
func TestIsCurrentUnderAnotherKey(t *testing.T) {
	server := kmstest.NewServer(t)
	own, other := server.CreateKey(kmstest.Key{}), server.CreateKey(kmstest.Key{})
	p := later(t, server, own.ARN)
	for _, keyID := range []string{other.ARN, other.ID} {
		under := message.Encrypter{Keyring: p.Under(keyID)}
		for encrypter, want := range map[*message.Encrypter]bool{&under: true, {Keyring: p}: false} {
			stored, err := encrypter.Encrypt(t.Context(), []byte("content"), nil)
			require.NoError(t, err)
			h, _, err := header.Parse(stored, header.Limits{})
			require.NoError(t, err)
			got, err := under.IsCurrent(t.Context(), h, nil)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
}
