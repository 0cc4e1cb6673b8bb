package pikokms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/local"
)

// newKMS returns a key of a KMS in the process.
func newKMS(t *testing.T) (provider.Provider, *kmstest.Server) {
	t.Helper()
	return newKMSOf(t, kmstest.Key{})
}

func newKMSOf(t *testing.T, wanted kmstest.Key) (provider.Provider, *kmstest.Server) {
	t.Helper()
	server := kmstest.NewServer(t)
	key := server.CreateKey(wanted)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := kms.New(kms.Options{
		Region: key.Region, BaseEndpoint: aws.String(server.URL), Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
	require.NoError(t, err)
	server.Reset()
	return p, server
}

// everyProvider runs a test under each kind of key.
func everyProvider(t *testing.T, test func(t *testing.T, p provider.EncryptionProvider)) {
	t.Run("AES", func(t *testing.T) { test(t, newLocal(t, "aes", 1)) })
	t.Run("RSA", func(t *testing.T) {
		public, private := newRSAPair(t)
		p, err := local.NewProvider(local.Config{Key: append(public, private...), Name: "rsa"})
		require.NoError(t, err)
		test(t, p)
	})
	t.Run("KMS", func(t *testing.T) {
		p, _ := newKMS(t)
		test(t, p)
	})
	t.Run("RSA key of KMS", func(t *testing.T) {
		p, _ := newKMSOf(t, kmstest.Key{Spec: "RSA_2048", Usage: "ENCRYPT_DECRYPT"})
		test(t, p)
	})
}

func hostUnder(t *testing.T, p provider.EncryptionProvider, options ...pikokms.Option) fixture {
	t.Helper()
	return newFixture(t, append(options, pikokms.WithCryptoProvider("p", p), pikokms.WithDefaultCryptoProvider("p"))...)
}

// forge makes a message of this content under a data key that the attacker knows, and a wrapped
// form of it that the application made.
func forge(t *testing.T, dataKey []byte, wrapped header.EncryptedDataKey, stored map[string]string, content string) []byte {
	t.Helper()
	h := &header.Header{
		Suite: header.AES256GCMHKDFSHA512CommitKey, MessageID: bytes.Repeat([]byte{7}, 32), ContentType: header.Framed, FrameLength: 65_536,
		EncryptedDataKeys: []header.EncryptedDataKey{wrapped},
	}
	aead, commitment, err := h.Suite.DeriveKeys(dataKey, h.MessageID)
	require.NoError(t, err)
	h.Commitment = commitment
	require.NoError(t, h.Seal(aead, nil))
	// The context is put in by hand: package header writes none that is over its limits.
	pairs, err := header.AppendContext(nil, stored)
	require.NoError(t, err)
	const contextAt = 1 + 2 + 32
	sealed := bytes.Clone(h.Bytes()[:contextAt])
	sealed = append(binary.BigEndian.AppendUint16(sealed, uint16(len(pairs))), pairs...)
	sealed = append(sealed, h.Bytes()[contextAt+2:h.Size()-gcm.TagSize]...)
	sealed = append(sealed, aead.Seal(nil, make([]byte, gcm.IVSize), nil, sealed)...)
	body, err := io.ReadAll(frame.NewSealReader(strings.NewReader(content), frame.Config{AEAD: aead, MessageID: h.MessageID, Length: 65_536}))
	require.NoError(t, err)
	return append(sealed, body...)
}

// refusedAtEveryDoor plants what is no object and asks for it at each door of the host.
func refusedAtEveryDoor(t *testing.T, f fixture, key string, planted []byte) {
	t.Helper()
	require.NoError(t, f.folder.Put(t.Context(), key, bytes.NewReader(planted)))
	doors := map[string]func() error{
		"Get":  func() error { _, err := get(t, f, key); return err },
		"Open": func() error { _, err := f.Open(t.Context(), key); return err },
		"OpenObject": func() error {
			_, err := f.OpenObject(t.Context(), key, inMemoryObject{bytes.NewReader(planted)}, nil)
			return err
		},
		"DecryptObject": func() error {
			_, _, err := f.DecryptObject(t.Context(), key, bytes.NewReader(planted), int64(len(planted)), nil)
			return err
		},
		"StatedSize": func() error {
			_, err := f.StatedSize(bytes.NewReader(planted), int64(len(planted)))
			return err
		},
		"FS":      func() error { _, err := f.FS(t.Context()).Open(key); return err },
		"Rewrap":  func() error { return f.Rewrap(t.Context(), key) },
		"Migrate": func() error { return f.Migrate(t.Context(), key) },
	}
	for name, door := range doors {
		err := door()
		require.ErrorIs(t, err, pikokms.ErrNotObject, name)
		require.ErrorIs(t, err, provider.ErrContextMismatch, name)
	}
	require.Equal(t, planted, f.stored(t, key))
}

// The application encrypts a string of 32 characters that an attacker chose. What KMS makes of it
// is then the wrapped data key of the attacker's message.
func TestAStringOfTheAttackerIsNoDataKey(t *testing.T) {
	const chosen = "0123456789abcdef0123456789abcdef"
	p, server := newKMS(t)
	f := hostUnder(t, p, pikokms.AllowPlaintext())
	for _, pairs := range []map[string]string{nil, {"column": "name"}} {
		text, err := f.Encrypt(t.Context(), chosen, pairs)
		require.NoError(t, err)
		e, err := envelope.Parse(text)
		require.NoError(t, err)
		blob, err := base64.StdEncoding.DecodeString(e.Ciphertext)
		require.NoError(t, err)
		wrapped := header.EncryptedDataKey{ProviderID: "aws-kms", ProviderInfo: []byte(p.KeyID()), Ciphertext: blob}
		forged := forge(t, []byte(chosen), wrapped, pairs, "the attacker's")

		// It is a complete message, which only its use distinguishes from an object.
		plain, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(t.Context(), forged, nil)
		require.NoError(t, err)
		require.Equal(t, "the attacker's", string(plain))
		server.Reset()
		refusedAtEveryDoor(t, f, "invoice", forged)
		require.Zero(t, server.Calls(""), "the key service was asked about it")

		// Nor does it help to say so, since KMS bound the string to other pairs.
		for _, use := range []string{provider.UseObject, provider.UseString} {
			stored := map[string]string{provider.PairUse: use}
			for k, v := range pairs {
				stored[k] = v
			}
			forged := forge(t, []byte(chosen), wrapped, stored, "the attacker's")
			require.NoError(t, f.folder.Put(t.Context(), "invoice", bytes.NewReader(forged)))
			_, err = get(t, f, "invoice")
			require.Error(t, err)
			text, err := envelope.New(p.KeyID(), p.Type(), base64.StdEncoding.EncodeToString(forged))
			require.NoError(t, err)
			_, err = f.Decrypt(t.Context(), text, pairs)
			require.Error(t, err)
		}
	}
}

// A wrapped data key in the place of a string's ciphertext would be handed out as the string.
func TestADataKeyIsNoString(t *testing.T) {
	everyProvider(t, func(t *testing.T, p provider.EncryptionProvider) {
		for _, options := range [][]pikokms.Option{nil, {pikokms.AllowPikoV2()}, {pikokms.BindObjectName("uploads")}, {pikokms.AllowForeignMessages()}} {
			f := hostUnder(t, p, options...)
			require.NoError(t, f.Put(t.Context(), "object", strings.NewReader("content")))
			large, err := f.Encrypt(t.Context(), strings.Repeat("large", 2000), nil)
			require.NoError(t, err)
			batch, err := f.CryptoService().EncryptBatch(t.Context(), []string{"one", "two"}, nil)
			require.NoError(t, err)
			messages := [][]byte{f.stored(t, "object")}
			for _, text := range append(batch, large) {
				e, err := envelope.Parse(text)
				require.NoError(t, err)
				b, err := base64.StdEncoding.DecodeString(e.Ciphertext)
				require.NoError(t, err)
				messages = append(messages, b)
			}
			for _, stored := range messages {
				h, _, err := header.Parse(stored, header.Limits{})
				require.NoError(t, err)
				k := h.EncryptedDataKeys[0]
				// A local AES key's IV stands in the provider information.
				withIV := append(bytes.Clone(k.ProviderInfo[max(0, len(k.ProviderInfo)-12):]), k.Ciphertext...)
				for _, ciphertext := range [][]byte{k.Ciphertext, withIV} {
					text, err := envelope.New("", p.Type(), base64.StdEncoding.EncodeToString(ciphertext))
					require.NoError(t, err)
					for _, pairs := range []map[string]string{nil, h.EncryptionContext, {pikokms.PairBucket: "uploads", pikokms.PairObject: "object"}} {
						got, err := f.Decrypt(t.Context(), text, pairs)
						require.Error(t, err)
						require.Empty(t, got)
					}
				}
			}
		}
	})
}

// Under a local key a string is a message, as an object is.
func TestAStringIsNoObjectAndAnObjectNoString(t *testing.T) {
	everyProvider(t, func(t *testing.T, p provider.EncryptionProvider) {
		for _, options := range [][]pikokms.Option{nil, {pikokms.AllowForeignMessages(), pikokms.AllowPlaintext()}, {pikokms.BindObjectName("uploads")}} {
			f := hostUnder(t, p, options...)
			text, err := f.Encrypt(t.Context(), strings.Repeat("a string ", 1000), nil) // of a size that KMS doesn't encrypt itself
			require.NoError(t, err)
			e, err := envelope.Parse(text)
			require.NoError(t, err)
			sealed, err := base64.StdEncoding.DecodeString(e.Ciphertext)
			require.NoError(t, err)
			refusedAtEveryDoor(t, f, "object", sealed)

			require.NoError(t, f.Put(t.Context(), "real", strings.NewReader("content")))
			served, err := envelope.New(e.KeyID, p.Type(), base64.StdEncoding.EncodeToString(f.stored(t, "real")))
			require.NoError(t, err)
			for _, pairs := range []map[string]string{nil, {provider.PairUse: provider.UseObject}, {pikokms.PairBucket: "uploads", pikokms.PairObject: "real"}} {
				_, err = f.Decrypt(t.Context(), served, pairs)
				require.ErrorIs(t, err, provider.ErrContextMismatch)
				_, err = f.CryptoService().DecryptBatch(t.Context(), []string{served}, pairs, 1)
				require.ErrorIs(t, err, provider.ErrContextMismatch)
			}
		}
	})
}

// If a string could have the names of an object as its pairs, it would pass as that object.
func TestNoStringStatesReservedPairs(t *testing.T) {
	everyProvider(t, func(t *testing.T, p provider.EncryptionProvider) {
		f := hostUnder(t, p, pikokms.BindObjectName("uploads"))
		plain, err := f.Encrypt(t.Context(), "text", nil)
		require.NoError(t, err)
		e, err := envelope.Parse(plain)
		require.NoError(t, err)
		for _, pairs := range []map[string]string{
			{pikokms.PairBucket: "uploads", pikokms.PairObject: "invoice"},
			{provider.PairUse: provider.UseObject},
			{provider.PairUse: provider.UseString},
			{"column": "name", "piko-anything": ""},
		} {
			service := f.CryptoService()
			for _, text := range []string{"text", strings.Repeat("text", 2000)} {
				_, err := f.Encrypt(t.Context(), text, pairs)
				require.ErrorIs(t, err, header.ErrInvalidContext)
				_, err = envelope.Seal(t.Context(), p, text, pairs)
				require.ErrorIs(t, err, header.ErrInvalidContext)
				_, err = envelope.Seal(t.Context(), service, text, pairs)
				require.ErrorIs(t, err, header.ErrInvalidContext)
				_, err = service.EncryptBatch(t.Context(), []string{text}, pairs)
				require.ErrorIs(t, err, header.ErrInvalidContext)
			}
			_, err := f.EncryptObject(t.Context(), "invoice", strings.NewReader("text"), pairs)
			require.ErrorIs(t, err, pikokms.ErrInvalidOptions)
			_, err = envelope.Open(t.Context(), p, e.Ciphertext, pairs)
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, err = f.Decrypt(t.Context(), plain, pairs)
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, err = f.ReEncrypt(t.Context(), plain, pairs)
			require.ErrorIs(t, err, provider.ErrContextMismatch)
		}

		// A message that was made with the names all the same is not the object.
		e2 := message.Encrypter{Keyring: p, Required: []string{pikokms.PairBucket, pikokms.PairObject}}
		sealed, err := e2.Encrypt(t.Context(), []byte("text"), map[string]string{pikokms.PairBucket: "uploads", pikokms.PairObject: "invoice"})
		require.NoError(t, err)
		refusedAtEveryDoor(t, f, "invoice", sealed)
	})
}

// Messages of AWS's tools are read with AllowForeignMessages, and Migrate makes objects of them.
func TestForeignMessages(t *testing.T) {
	everyProvider(t, func(t *testing.T, p provider.EncryptionProvider) {
		foreign := message.Encrypter{Keyring: p, Suite: header.AES256GCMHKDFSHA512CommitKeyECDSAP384}
		if strings.HasSuffix(t.Name(), "RSA_key_of_KMS") {
			foreign.Suite = 0 // the specification has no signed messages under one
		}
		sealed, err := foreign.Encrypt(t.Context(), []byte("of another tool"), map[string]string{"tenant": "42"})
		require.NoError(t, err)
		unsigned, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("of another tool"), nil)
		require.NoError(t, err)
		refusedAtEveryDoor(t, hostUnder(t, p), "a", unsigned)

		f := hostUnder(t, p, pikokms.AllowForeignMessages(), pikokms.WithEnabledTransformers("zstd"))
		require.NoError(t, f.folder.Put(t.Context(), "a", bytes.NewReader(sealed)))
		got, err := get(t, f, "a")
		require.NoError(t, err)
		require.Equal(t, "of another tool", got)
		require.ErrorIs(t, f.Rewrap(t.Context(), "a"), pikokms.ErrNotObject)
		require.Equal(t, sealed, f.stored(t, "a"))

		require.NoError(t, f.Migrate(t.Context(), "a"))
		migrated := f.stored(t, "a")
		require.NoError(t, f.Migrate(t.Context(), "a"))
		require.Equal(t, migrated, f.stored(t, "a"), "an object is left as it is")
		require.NoError(t, f.Rewrap(t.Context(), "a"))
		h, _, err := header.Parse(f.stored(t, "a"), header.Limits{})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"tenant": "42", provider.PairUse: provider.UseObject}, h.EncryptionContext)

		strict := hostUnder(t, p)
		require.NoError(t, strict.folder.Put(t.Context(), "a", bytes.NewReader(migrated)))
		got, err = get(t, strict, "a")
		require.NoError(t, err)
		require.Equal(t, "of another tool", got)
	})
}
