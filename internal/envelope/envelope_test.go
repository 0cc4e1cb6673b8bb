package envelope_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// localKey is the key of testdata.
func localKey() []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func newLocal(t testing.TB, key []byte) provider.Provider {
	t.Helper()
	p, err := local.NewProvider(local.Config{Key: key})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

type vector struct{ Plaintext, Text string }

func vectors(t testing.TB) map[string][]vector {
	t.Helper()
	b, err := os.ReadFile("testdata/local.json")
	require.NoError(t, err)
	var all map[string][]vector
	require.NoError(t, json.Unmarshal(b, &all))
	require.Len(t, all, 3)
	return all
}

// fake is a provider of the KMS type. Like KMS's, its ciphertexts are opaque to pikokms.
type fake struct {
	provider.EncryptionProvider
	asked   int
	stated  map[string]string // by the last DecryptDirectly
	dataKey []byte            // what UnwrapPikoV2 returns
	err     error
}

func (f *fake) Type() provider.Type { return "aws_kms" }

func (f *fake) EncryptsDirectly() bool { return true }

func (f *fake) EncryptDirectly(_ context.Context, value []byte, _ map[string]string) ([]byte, string, error) {
	if f.err != nil {
		return nil, "", f.err
	}
	return bytes.Clone(value), "arn:<1>", nil
}

func (f *fake) DecryptDirectly(_ context.Context, ciphertext []byte, stated map[string]string) ([]byte, error) {
	f.asked++
	f.stated = stated
	if f.err != nil {
		return nil, f.err
	}
	return bytes.Clone(ciphertext), nil
}

func (f *fake) UnwrapPikoV2(_ context.Context, wrapped string) (*provider.SecureBytes, error) {
	f.asked++
	if f.err != nil {
		return nil, f.err
	}
	if wrapped != "AAAA" {
		return nil, provider.ErrDecryptionFailed
	}
	return provider.NewSecureBytes(bytes.Clone(f.dataKey))
}

// seal is the ciphertext of an old string.
func seal(t testing.TB, key []byte, iv, plaintext string) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(aead.Seal([]byte(iv), []byte(iv), []byte(plaintext), nil))
}

func TestStringsOfPiko(t *testing.T) {
	p, other := newLocal(t, localKey()), newLocal(t, bytes.Repeat([]byte{9}, 32))
	allowed := &envelope.Decrypter{Providers: []provider.EncryptionProvider{&fake{}, other, p}, AllowPikoV2: true}
	for kind, strings := range vectors(t) {
		for _, v := range strings {
			e, err := envelope.Parse(v.Text)
			require.NoError(t, err, kind)
			require.Equal(t, v.Text, e.String(), "the envelope is not written as Piko writes it")
			require.Equal(t, kind == "batch", e.EncryptedDataKey != "")

			got, err := allowed.Decrypt(t.Context(), v.Text, nil)
			require.NoError(t, err, kind)
			require.Equal(t, v.Plaintext, got)

			_, err = allowed.Decrypt(t.Context(), v.Text, map[string]string{"tenant": "acme"})
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, err = (&envelope.Decrypter{Providers: allowed.Providers}).Decrypt(t.Context(), v.Text, nil)
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			require.ErrorContains(t, err, "AllowPikoV2")

			d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{other}, AllowPikoV2: true}
			_, err = d.Decrypt(t.Context(), v.Text, nil)
			require.ErrorIs(t, err, provider.ErrDecryptionFailed)
			raw, err := base64.StdEncoding.DecodeString(e.Ciphertext)
			require.NoError(t, err)
			for i := range min(len(raw), 60) {
				raw[i] ^= 1
				e.Ciphertext = base64.StdEncoding.EncodeToString(raw)
				got, err = allowed.Decrypt(t.Context(), e.String(), nil)
				require.ErrorIs(t, err, provider.ErrDecryptionFailed)
				require.Empty(t, got)
				raw[i] ^= 1
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	p, other := newLocal(t, localKey()), newLocal(t, bytes.Repeat([]byte{9}, 32))
	kms := &fake{}
	for _, encryptionContext := range []map[string]string{nil, {"tenant": "acme"}} {
		for _, from := range []provider.EncryptionProvider{p, kms} {
			text, err := envelope.Encrypt(t.Context(), from, "naïve ☃", encryptionContext)
			require.NoError(t, err)
			for _, allow := range []bool{false, true} {
				d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{other, kms, p}, AllowPikoV2: allow}
				got, err := d.Decrypt(t.Context(), text, encryptionContext)
				require.NoError(t, err)
				require.Equal(t, "naïve ☃", got)
				if from == kms {
					require.Equal(t, encryptionContext, kms.stated)
					continue
				}
				_, err = d.Decrypt(t.Context(), text, map[string]string{"tenant": "other"})
				require.ErrorIs(t, err, provider.ErrContextMismatch)
			}
		}
	}
	text, err := envelope.Encrypt(t.Context(), kms, "text", nil)
	require.NoError(t, err)
	json, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	require.Equal(t, `{"key_id":"arn:\u003c1\u003e","provider":"aws_kms","ct":"dGV4dA==","v":1}`, string(json))

	text, err = envelope.Encrypt(t.Context(), p, "", nil)
	require.NoError(t, err)
	got, err := (&envelope.Decrypter{Providers: []provider.EncryptionProvider{p}}).Decrypt(t.Context(), text, nil)
	require.NoError(t, err)
	require.Empty(t, got)
	large := strings.Repeat("x", 10<<20)
	_, err = envelope.Encrypt(t.Context(), kms, large, nil)
	require.ErrorIs(t, err, provider.ErrEncryptionFailed)
	require.ErrorContains(t, err, "as a stream")
}

// TestIVLikeAMessage has old strings whose random IV begins as a message does.
func TestIVLikeAMessage(t *testing.T) {
	d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{newLocal(t, localKey())}, AllowPikoV2: true}
	for _, iv := range []string{"\x02\x04\x78 and more", "\x02\x05\x78 and more", "\x01\x80\x03\x78 by luck"} {
		iv = iv[:12]
		require.True(t, header.Sniff([]byte(iv)))
		e := &envelope.Envelope{Provider: "local_aes_gcm", Ciphertext: seal(t, localKey(), iv, "text"), Version: 1}
		got, err := d.Decrypt(t.Context(), e.String(), nil)
		require.NoError(t, err)
		require.Equal(t, "text", got)
	}
}

func TestBatchOfKMS(t *testing.T) {
	key := bytes.Repeat([]byte{5}, 32)
	e := &envelope.Envelope{KeyID: "arn", Provider: "aws_kms", EncryptedDataKey: "AAAA", Ciphertext: seal(t, key, "twelve bytes", "text"), Version: 1}
	unavailable, right := &fake{err: provider.ErrProviderUnavailable}, &fake{dataKey: key}
	wrong := &fake{dataKey: bytes.Repeat([]byte{6}, 32)}
	broken := &fake{dataKey: key[:7]}
	d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{unavailable, wrong, broken, right}, AllowPikoV2: true}
	got, err := d.Decrypt(t.Context(), e.String(), nil)
	require.NoError(t, err)
	require.Equal(t, "text", got)

	d.Providers = d.Providers[:3]
	_, err = d.Decrypt(t.Context(), e.String(), nil)
	for _, want := range []error{provider.ErrProviderUnavailable, provider.ErrDecryptionFailed, provider.ErrInvalidKey} {
		require.ErrorIs(t, err, want, "the error does not say why each provider failed")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	unavailable.err, right.asked = ctx.Err(), 0
	d.Providers = []provider.EncryptionProvider{unavailable, right}
	_, err = d.Decrypt(ctx, e.String(), nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, right.asked, "a provider was asked after the context's end")

	d.AllowPikoV2 = false
	_, err = d.Decrypt(t.Context(), e.String(), nil)
	require.ErrorContains(t, err, "AllowPikoV2")
	require.Zero(t, right.asked)
}

func TestProviders(t *testing.T) {
	old := &envelope.Envelope{KeyID: "k", Provider: "local_aes_gcm", Ciphertext: seal(t, localKey(), "twelve bytes", "text"), Version: 1}
	d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{&fake{}}, AllowPikoV2: true}
	_, err := d.Decrypt(t.Context(), old.String(), nil)
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
	require.ErrorContains(t, err, `key "k" of provider "local_aes_gcm"`)

	p := newLocal(t, localKey())
	d.Providers = []provider.EncryptionProvider{struct{ provider.EncryptionProvider }{p}}
	_, err = d.Decrypt(t.Context(), old.String(), nil)
	require.ErrorIs(t, err, provider.ErrInvalidProvider)

	d.Providers = []provider.EncryptionProvider{p}
	old.Ciphertext = base64.StdEncoding.EncodeToString(make([]byte, 27))
	_, err = d.Decrypt(t.Context(), old.String(), nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "27 bytes")
	old.Ciphertext = "*"
	_, err = d.Decrypt(t.Context(), old.String(), nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.ErrorContains(t, err, "base64")
}

func TestBadEnvelopes(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, s := range map[string]struct{ text, says string }{
		"empty":           {"", "JSON"},
		"not base64":      {"*", "base64"},
		"no JSON":         {encode("SENTINEL"), "JSON"},
		"another type":    {encode(`{"v":"SENTINEL"}`), "JSON"},
		"another version": {encode(`{"provider":"p","ct":"AAAA","v":2}`), "version 2"},
		"no version":      {encode(`{"provider":"p","ct":"AAAA"}`), "version 0"},
		"no provider":     {encode(`{"ct":"AAAA","v":1}`), "no provider"},
		"no ciphertext":   {encode(`{"provider":"p","v":1}`), "no ciphertext"},
		"too large":       {strings.Repeat("A", 16<<20+4), "16777220 bytes"},
	} {
		_, err := envelope.Parse(s.text)
		require.ErrorIs(t, err, provider.ErrInvalidCiphertext, name)
		require.ErrorContains(t, err, s.says, name)
		require.NotContains(t, err.Error(), "SENTINEL")
		_, again := (&envelope.Decrypter{}).Decrypt(t.Context(), s.text, nil)
		require.Equal(t, err, again)
	}
}

func FuzzParse(f *testing.F) {
	for _, strings := range vectors(f) {
		for _, v := range strings {
			f.Add(v.Text)
		}
	}
	f.Add("")
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"provider":"p","ct":"AAAA","v":1,"x":[]}`)))
	p := newLocal(f, localKey())
	f.Fuzz(func(t *testing.T, text string) {
		d := &envelope.Decrypter{Providers: []provider.EncryptionProvider{p}, AllowPikoV2: true}
		_, decryptErr := d.Decrypt(t.Context(), text, nil)
		e, err := envelope.Parse(text)
		if err != nil {
			require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
			require.Equal(t, err, decryptErr)
			return
		}
		again, err := envelope.Parse(e.String())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}
