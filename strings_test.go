package pikokms_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// A host for strings alone has no storage, and one provider needs no name of a default.
func TestStringsNeedNoStorage(t *testing.T) {
	host, err := pikokms.New(pikokms.WithCryptoProvider("keys", newLocal(t, "keys", 1)))
	require.NoError(t, err)
	defer host.Close()
	for _, plaintext := range []string{"", "a", strings.Repeat("long ", 10_000)} {
		text, err := host.Encrypt(t.Context(), plaintext, map[string]string{"column": "email"})
		require.NoError(t, err)
		got, err := host.Decrypt(t.Context(), text, map[string]string{"column": "email"})
		require.NoError(t, err)
		require.Equal(t, plaintext, got)
		_, err = host.Decrypt(t.Context(), text, nil)
		require.ErrorIs(t, err, provider.ErrContextMismatch)
		moved, err := host.ReEncrypt(t.Context(), text, map[string]string{"column": "email"})
		require.NoError(t, err)
		require.NotEqual(t, text, moved)
		plain, same, err := host.DecryptAndReEncrypt(t.Context(), text, map[string]string{"column": "email"})
		require.NoError(t, err)
		require.Equal(t, plaintext, plain)
		require.Equal(t, text, same, "it is under the key already")
	}

	_, getErr := host.Get(t.Context(), "a")
	_, openErr := host.Open(t.Context(), "a")
	_, statErr := host.Stat(t.Context(), "a")
	var listErr error
	for _, listErr = range host.List(t.Context(), "") {
	}
	for operation, err := range map[string]error{
		"put": host.Put(t.Context(), "a", strings.NewReader("x")), "get": getErr, "open": openErr, "stat": statErr,
		"delete": host.Delete(t.Context(), "a"), "list": listErr, "rewrap": host.Rewrap(t.Context(), "a"),
	} {
		require.ErrorIs(t, err, pikokms.ErrConfig, operation)
		require.ErrorContains(t, err, "WithStorage", operation)
	}
}

// The empty string encrypts under AWS KMS, too, which itself encrypts no empty value.
func TestTheEmptyStringUnderKMS(t *testing.T) {
	p, _ := newKMS(t)
	host, err := pikokms.New(pikokms.WithCryptoProvider("kms", p))
	require.NoError(t, err)
	defer host.Close()
	text, err := host.Encrypt(t.Context(), "", nil)
	require.NoError(t, err)
	got, err := host.Decrypt(t.Context(), text, nil)
	require.NoError(t, err)
	require.Empty(t, got)
	_, same, err := host.DecryptAndReEncrypt(t.Context(), text, nil)
	require.NoError(t, err)
	require.Equal(t, text, same)
}

// What a column must have room for, as Encrypt's documentation says.
func TestTheLengthOfEncryptedStrings(t *testing.T) {
	p, _ := newKMS(t)
	rsa, _ := newKMSOf(t, kmstest.Key{Spec: "RSA_2048", Usage: "ENCRYPT_DECRYPT"})
	pairs := map[string]string{"column": "email"}
	for _, n := range []int{0, 1, 19, 100, 1000, 4096, 4097, 50_000} {
		for more, crypto := range map[int]provider.EncryptionProvider{550: newLocal(t, "key", 1), 400: p, 1100: rsa} {
			host, err := pikokms.New(pikokms.WithCryptoProvider("key", crypto))
			require.NoError(t, err)
			text, err := host.Encrypt(t.Context(), strings.Repeat("x", n), pairs)
			require.NoError(t, err)
			require.NoError(t, host.Close())
			if crypto == p && (n == 0 || n > 4096) {
				more = 900
			}
			stored := n + len("column") + len("email") + 4
			require.LessOrEqual(t, len(text), stored*16/9+more, "%d bytes", n)
			require.Greater(t, len(text), n*16/9+more-100, "%d bytes", n)
			column := 1000
			if crypto == rsa {
				column = 1700
			}
			require.LessOrEqual(t, len(text), n*16/9+column, "%d bytes", n)
		}
	}
}

func TestStat(t *testing.T) {
	for name, size := range map[string]int64{"": 100_000, "zstd": -1, "zstd-seekable": -1} {
		var options []pikokms.Option
		if name != "" {
			options = append(options, pikokms.WithEnabledTransformers(name))
		}
		p, server := newKMS(t)
		f := newFixture(t, append(options, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"))...)
		require.NoError(t, f.Put(t.Context(), "a/b.txt", strings.NewReader(strings.Repeat("x", 100_000))))
		before := len(server.Requests())
		info, err := f.Stat(t.Context(), "a/b.txt")
		require.NoError(t, err)
		require.Equal(t, "b.txt", info.Name())
		require.Equal(t, size, info.Size(), name)
		require.False(t, info.ModTime().IsZero())
		require.Len(t, server.Requests(), before, "Stat asks no key service")

		_, err = f.Stat(t.Context(), "none")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, f.folder.Put(t.Context(), "plain", strings.NewReader("not encrypted")))
		_, err = f.Stat(t.Context(), "plain")
		require.ErrorIs(t, err, pikokms.ErrPlaintext)
	}
}

func TestPutWith(t *testing.T) {
	p, server := newKMS(t)
	f := newFixture(t, pikokms.WithCryptoProvider("kms", p), pikokms.WithDefaultCryptoProvider("kms"))
	require.NoError(t, f.PutWith(t.Context(), "a", strings.NewReader("content"), map[string]string{"tenant": "acme"}))
	h, _, err := header.Parse(f.stored(t, "a"), header.Limits{})
	require.NoError(t, err)
	require.Equal(t, "acme", h.EncryptionContext["tenant"])
	requests := server.Requests()
	require.Equal(t, "acme", requests[len(requests)-1].EncryptionContext["tenant"])
	got, err := get(t, f, "a")
	require.NoError(t, err)
	require.Equal(t, "content", got)
	require.NoError(t, f.Rewrap(t.Context(), "a"))
	h, _, err = header.Parse(f.stored(t, "a"), header.Limits{})
	require.NoError(t, err)
	require.Equal(t, "acme", h.EncryptionContext["tenant"], "Rewrap keeps it")

	// Whoever reads can ask for the pairs.
	for tenant, want := range map[string]error{"acme": nil, "other": provider.ErrContextMismatch} {
		stored, err := f.folder.Open(t.Context(), "a")
		require.NoError(t, err)
		_, err = f.OpenObject(t.Context(), "a", stored, map[string]string{"tenant": tenant})
		require.ErrorIs(t, err, want)
		_, _, err = f.DecryptObject(t.Context(), "a", stored, stored.Size(), map[string]string{"tenant": tenant})
		require.ErrorIs(t, err, want)
		require.NoError(t, stored.Close())
	}
	plain := newFixture(t, pikokms.AllowPlaintext())
	_, _, err = plain.DecryptObject(t.Context(), "a", strings.NewReader("plain"), 5, map[string]string{"tenant": "acme"})
	require.ErrorIs(t, err, provider.ErrContextMismatch, "what is not encrypted has no pairs")
	require.ErrorIs(t, f.PutWith(t.Context(), "b", strings.NewReader("x"), map[string]string{"piko-use": "string"}), header.ErrInvalidContext)
}

// A program may bring its own Encrypter and Decrypter.
func TestWithMessages(t *testing.T) {
	folder, err := folderstorage.New(t.TempDir())
	require.NoError(t, err)
	defer folder.Close()
	first, second := newLocal(t, "first", 1), newLocal(t, "second", 2)
	e := message.Encrypter{Keyring: first, Recipients: []provider.Wrapper{second}, Suite: header.AES256GCMHKDFSHA512CommitKeyECDSAP384}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{second}}
	host, err := pikokms.New(pikokms.WithMessages(e, d), pikokms.WithStorage(folder), pikokms.WithEnabledTransformers("zstd"))
	require.NoError(t, err)
	defer host.Close()
	require.NoError(t, host.Put(t.Context(), "a", strings.NewReader("content")))
	got, err := get(t, host, "a")
	require.NoError(t, err)
	require.Equal(t, "content", got)

	other, err := pikokms.New(pikokms.WithCryptoProvider("first", first), pikokms.WithStorage(folder))
	require.NoError(t, err)
	defer other.Close()
	got, err = get(t, other, "a")
	require.NoError(t, err)
	require.Equal(t, "content", got, "either recipient reads it")

	_, err = host.Encrypt(t.Context(), "string", nil)
	require.ErrorIs(t, err, pikokms.ErrConfig)
	_, err = pikokms.New(pikokms.WithMessages(e, d), pikokms.WithCryptoProvider("first", first))
	require.ErrorIs(t, err, pikokms.ErrConfig)

	// What is wrong with a message, the Decrypter says, and no option of the host is named.
	_, _, err = host.DecryptObject(t.Context(), "a", strings.NewReader("plain"), 5, nil)
	require.ErrorIs(t, err, provider.ErrInvalidCiphertext)
	require.NotContains(t, err.Error(), "Allow")

	// Without a Keyring, what is stored can be read, and nothing is encrypted.
	reader, err := pikokms.New(pikokms.WithMessages(message.Encrypter{}, d), pikokms.WithStorage(folder))
	require.NoError(t, err)
	defer reader.Close()
	_, err = get(t, reader, "a")
	require.NoError(t, err)
	require.ErrorIs(t, reader.Put(t.Context(), "b", strings.NewReader("x")), provider.ErrInvalidProvider)
	_, err = (&message.Encrypter{}).NewWriter(context.Background(), io.Discard, nil)
	require.True(t, errors.Is(err, provider.ErrEncryptionFailed))
}
