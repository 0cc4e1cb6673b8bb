package pikokms_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// pikoKey is the local key of the vectors that Piko wrote.
func pikoKey(t *testing.T) (provider.Provider, []byte) {
	t.Helper()
	key := make([]byte, 32) // pikov2/testdata/README.md
	for i := range key {
		key[i] = byte(i)
	}
	p, err := local.NewProvider(local.Config{Key: bytes.Clone(key), Name: "piko"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p, key
}

func TestObjectsFromBeforePikokms(t *testing.T) {
	old, _ := pikoKey(t)
	stream, err := os.ReadFile(filepath.Join("pikov2", "testdata", "local-65537.bin"))
	require.NoError(t, err)
	registered := pikokms.WithCryptoProvider("piko", old)
	for _, more := range [][]pikokms.Option{nil, {pikokms.BindObjectName("uploads")}, {pikokms.AllowPlaintext()}, {pikokms.WithEnabledTransformers("zstd")}} {
		f := newFixture(t, append(more, registered, pikokms.AllowPikoV2())...)
		require.NoError(t, f.folder.Put(t.Context(), "old", bytes.NewReader(stream)))
		content, err := get(t, f, "old")
		require.NoError(t, err)
		require.Len(t, content, 65537)
		require.NoError(t, f.Put(t.Context(), "new", strings.NewReader(content)))
		require.True(t, header.Sniff(f.stored(t, "new")), "new objects are messages")
		again, err := get(t, f, "new")
		require.NoError(t, err)
		require.Equal(t, content, again)

		require.NoError(t, f.folder.Put(t.Context(), "old", bytes.NewReader(stream[:len(stream)-1])))
		_, err = get(t, f, "old")
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	strict := newFixture(t, registered)
	require.NoError(t, strict.folder.Put(t.Context(), "old", bytes.NewReader(stream)))
	_, err = get(t, strict, "old")
	require.ErrorIs(t, err, message.ErrPikoV2)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "AllowPikoV2")

	d := message.Decrypter{Keyrings: []provider.Unwrapper{old}, AllowPikoV2: true}
	_, _, err = d.Decrypt(t.Context(), stream, map[string]string{"tenant": "42"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	r, err := d.NewReader(t.Context(), bytes.NewReader(stream), nil)
	require.NoError(t, err)
	require.Nil(t, r.Header())
	ctx, cancel := context.WithCancel(t.Context())
	r, err = d.NewReader(ctx, bytes.NewReader(stream), nil)
	require.NoError(t, err)
	cancel()
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, context.Canceled)
}

func TestStrings(t *testing.T) {
	old, key := pikoKey(t)
	f := newFixture(t, pikokms.WithCryptoProvider("piko", old), pikokms.AllowPikoV2())
	pairs := map[string]string{"column": "iban"}
	text, err := f.Encrypt(t.Context(), "secret", pairs)
	require.NoError(t, err)
	e, err := envelope.Parse(text)
	require.NoError(t, err)
	require.Equal(t, "local", e.KeyID)
	require.Equal(t, "local_aes_gcm", e.Provider)
	got, err := f.Decrypt(t.Context(), text, pairs)
	require.NoError(t, err)
	require.Equal(t, "secret", got)
	_, err = f.Decrypt(t.Context(), text, nil)
	require.ErrorIs(t, err, provider.ErrContextMismatch)

	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	sealed := aead.Seal(make([]byte, 12), make([]byte, 12), []byte("from before"), nil)
	before := (&envelope.Envelope{KeyID: "local-default", Provider: "local_aes_gcm", Ciphertext: base64.StdEncoding.EncodeToString(sealed), Version: 1}).String()
	got, err = f.Decrypt(t.Context(), before, nil)
	require.NoError(t, err)
	require.Equal(t, "from before", got)
	_, err = newFixture(t, pikokms.WithCryptoProvider("piko", old)).Decrypt(t.Context(), before, nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "AllowPikoV2")
}

// Piko's KMS provider wrapped its data keys, and encrypted its strings, without an encryption
// context.
func TestPikoV2UnderKMS(t *testing.T) {
	p, client, calls := newProvider(t)
	made, err := client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: aws.String(p.KeyID()), KeySpec: "AES_256"})
	require.NoError(t, err)
	block, err := aes.NewCipher(made.Plaintext)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	edk := base64.StdEncoding.EncodeToString(made.CiphertextBlob)

	h, err := json.Marshal(map[string]any{"key_id": "alias/uploads", "provider": "aws_kms", "iv": "AAAAAAAAAAAAAAAA", "edk": edk, "algorithm": "AES-256-GCM", "version": 2})
	require.NoError(t, err)
	stream := append(binary.BigEndian.AppendUint32([]byte{2}, uint32(len(h))), h...)
	for i, chunk := range []string{"one ", "two"} {
		sealed := aead.Seal(nil, binary.BigEndian.AppendUint32(make([]byte, 8), uint32(i)), []byte(chunk), nil)
		stream = append(binary.BigEndian.AppendUint32(stream, uint32(len(sealed))), sealed...)
	}
	calls.take()
	d := message.Decrypter{Keyrings: []provider.Unwrapper{newLocal(t, "other", 3), p}, AllowPikoV2: true}
	got, _, err := d.Decrypt(t.Context(), stream, nil)
	require.NoError(t, err)
	require.Equal(t, "one two", string(got))
	require.Equal(t, map[string]int{"Decrypt": 1}, calls.take())
	d.Keyrings = d.Keyrings[:1]
	_, _, err = d.Decrypt(t.Context(), stream, nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)

	direct, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String(p.KeyID()), Plaintext: []byte("direct")})
	require.NoError(t, err)
	batch := aead.Seal(make([]byte, 12), make([]byte, 12), []byte("batch"), nil)
	strict := envelope.Decrypter{Providers: []provider.EncryptionProvider{p}}
	allowing := envelope.Decrypter{Providers: strict.Providers, AllowPikoV2: true}
	for want, e := range map[string]envelope.Envelope{
		"direct": {KeyID: "alias/uploads", Provider: "aws_kms", Ciphertext: base64.StdEncoding.EncodeToString(direct.CiphertextBlob), Version: 1},
		"batch":  {KeyID: "alias/uploads", Provider: "aws_kms", EncryptedDataKey: edk, Ciphertext: base64.StdEncoding.EncodeToString(batch), Version: 1},
	} {
		got, err := allowing.Decrypt(t.Context(), e.String(), nil)
		require.NoError(t, err)
		require.Equal(t, want, got)
		_, err = strict.Decrypt(t.Context(), e.String(), nil)
		if want == "direct" {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
		}
	}
}
