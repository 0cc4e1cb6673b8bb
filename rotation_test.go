package pikokms_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/envelope"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

func keyNames(t *testing.T, stored []byte) []string {
	t.Helper()
	h, _, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	var names []string
	for _, k := range h.EncryptedDataKeys {
		names = append(names, message.KeyName(k))
	}
	return names
}

func TestRotation(t *testing.T) {
	for name, more := range map[string][]pikokms.Option{"plain": nil, "bound and compressed": {pikokms.BindObjectName("b"), pikokms.WithEnabledTransformers("zstd")}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, append(more, pikokms.WithCryptoProvider("next", newLocal(t, "next", 2)))...)
			require.NoError(t, f.Put(t.Context(), "old", strings.NewReader("content")))
			text, err := f.Encrypt(t.Context(), "string", nil)
			require.NoError(t, err)

			require.ErrorIs(t, f.SetDefaultCryptoProvider("nobody"), pikokms.ErrConfig)
			require.NoError(t, f.SetDefaultCryptoProvider("next"))
			require.NoError(t, f.Put(t.Context(), "new", strings.NewReader("content")))
			require.Equal(t, []string{"local"}, keyNames(t, f.stored(t, "old")))
			require.Equal(t, []string{"next"}, keyNames(t, f.stored(t, "new")))
			requireCurrent(t, f.Host, map[string]bool{"old": false, "new": true})

			require.NoError(t, f.Rewrap(t.Context(), "old"))
			requireCurrent(t, f.Host, map[string]bool{"old": true, "new": true})
			require.Equal(t, []string{"next"}, keyNames(t, f.stored(t, "old")))
			for _, key := range []string{"old", "new"} {
				content, err := get(t, f, key)
				require.NoError(t, err)
				require.Equal(t, "content", content)
			}

			plaintext, moved, err := f.DecryptAndReEncrypt(t.Context(), text, nil)
			require.NoError(t, err)
			require.Equal(t, "string", plaintext)
			e, err := envelope.Parse(moved)
			require.NoError(t, err)
			require.Equal(t, "next", e.KeyID)
			_, again, err := f.DecryptAndReEncrypt(t.Context(), moved, nil)
			require.NoError(t, err)
			require.Equal(t, moved, again, "it is where it should be")
			moved, err = f.ReEncrypt(t.Context(), text, nil)
			require.NoError(t, err)
			plaintext, err = f.Decrypt(t.Context(), moved, nil)
			require.NoError(t, err)
			require.Equal(t, "string", plaintext)
		})
	}
}

// What is damaged is not moved, and stays as it is.
func TestRewrapKeepsWhatItCannotMove(t *testing.T) {
	f := newFixture(t, pikokms.WithCryptoProvider("next", newLocal(t, "next", 2)))
	require.NoError(t, f.Put(t.Context(), "a", bytes.NewReader(make([]byte, 200_000))))
	stored := f.stored(t, "a")
	stored[150_000] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "a"), stored, 0o600))
	require.NoError(t, f.SetDefaultCryptoProvider("next"))
	require.ErrorIs(t, f.Rewrap(t.Context(), "a"), provider.ErrDecryptionFailed)
	require.Equal(t, stored, f.stored(t, "a"))
	require.Equal(t, []string{"a"}, f.files(t))
	require.ErrorIs(t, f.Rewrap(t.Context(), "none"), os.ErrNotExist)

	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "plain"), []byte("plaintext"), 0o600))
	require.ErrorIs(t, f.Rewrap(t.Context(), "plain"), pikokms.ErrPlaintext)
}

// Migrate makes bound messages of objects from before encryption and from before pikokms. Rewrap,
// which runs over everything, refuses them: it would make planted plaintext authentic for ever.
func TestMigrateMovesOldObjects(t *testing.T) {
	old, _ := pikoKey(t)
	stream, err := os.ReadFile(filepath.Join("pikov2", "testdata", "local-1.bin"))
	require.NoError(t, err)
	f := newFixture(t, pikokms.WithCryptoProvider("piko", old), pikokms.AllowPikoV2(), pikokms.AllowPlaintext(), pikokms.BindObjectName("b"))
	strict := newFixture(t, pikokms.WithCryptoProvider("piko", old))
	for key, stored := range map[string][]byte{"piko": stream, "plain": []byte("plaintext")} {
		require.NoError(t, f.folder.Put(t.Context(), key, bytes.NewReader(stored)))
		require.NoError(t, strict.folder.Put(t.Context(), key, bytes.NewReader(stored)))
		before, err := get(t, f, key)
		require.NoError(t, err)
		require.ErrorContains(t, f.Rewrap(t.Context(), key), "Migrate")
		require.Equal(t, stored, f.stored(t, key))
		require.Error(t, strict.Migrate(t.Context(), key), "what the host does not read it does not migrate")
		require.Equal(t, stored, strict.stored(t, key))

		require.NoError(t, f.Migrate(t.Context(), key))
		require.Equal(t, []string{"local"}, keyNames(t, f.stored(t, key)))
		after, err := get(t, f, key)
		require.NoError(t, err)
		require.Equal(t, before, after)
		require.NoError(t, f.Rewrap(t.Context(), key))
		require.NoError(t, f.folder.Put(t.Context(), "swapped", bytes.NewReader(f.stored(t, key))))
		_, err = get(t, f, "swapped")
		require.ErrorIs(t, err, provider.ErrContextMismatch)
	}
}

// Between two keys of one Region, KMS moves strings itself.
func TestReEncryptUnderKMS(t *testing.T) {
	p, client, calls := newProvider(t)
	q, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: *newKey(t, client, &kms.CreateKeyInput{}).KeyId, Client: client})
	require.NoError(t, err)
	f := newFixture(t, pikokms.WithCryptoProvider("p", p), pikokms.WithCryptoProvider("q", q), pikokms.WithDefaultCryptoProvider("p"))
	pairs := map[string]string{"column": "iban"}
	small, err := f.Encrypt(t.Context(), "small", pairs)
	require.NoError(t, err)
	large, err := f.Encrypt(t.Context(), strings.Repeat("large", 1000), pairs)
	require.NoError(t, err)
	require.NoError(t, f.SetDefaultCryptoProvider("q"))
	calls.take()

	moved, err := f.ReEncrypt(t.Context(), small, pairs)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"ReEncrypt": 1}, calls.take())
	plaintext, again, err := f.DecryptAndReEncrypt(t.Context(), moved, pairs)
	require.NoError(t, err)
	require.Equal(t, "small", plaintext)
	require.Equal(t, moved, again)
	_, err = f.ReEncrypt(t.Context(), small, map[string]string{"column": "name"})
	require.ErrorIs(t, err, provider.ErrDecryptionFailed)

	moved, err = f.ReEncrypt(t.Context(), large, pairs)
	require.NoError(t, err)
	e, err := envelope.Parse(moved)
	require.NoError(t, err)
	require.Equal(t, q.KeyID(), e.KeyID)
	plaintext, err = f.Decrypt(t.Context(), moved, pairs)
	require.NoError(t, err)
	require.Len(t, plaintext, 5000)
}

func requireCurrent(t *testing.T, host *pikokms.Host, want map[string]bool) {
	t.Helper()
	for key, current := range want {
		got, err := host.IsCurrent(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, current, got, key)
	}
}

// What is no stored object of a host, and what another key of the same name wrapped, is not
// current.
func TestIsCurrent(t *testing.T) {
	f := newFixture(t, pikokms.WithCryptoProvider("twin", newLocal(t, "local", 2)))
	require.NoError(t, f.Put(t.Context(), "object", strings.NewReader("content")))
	stored := f.stored(t, "object")
	foreign, err := (&message.Encrypter{Keyring: newLocal(t, "local", 1)}).Encrypt(t.Context(), []byte("content"), nil)
	require.NoError(t, err)
	for name, content := range map[string][]byte{"empty": nil, "plain": []byte("content"), "cut": stored[:40], "foreign": foreign} {
		require.NoError(t, f.folder.Put(t.Context(), name, bytes.NewReader(content)))
	}
	requireCurrent(t, f.Host, map[string]bool{"object": true, "empty": false, "plain": false, "cut": false, "foreign": false})
	_, err = f.IsCurrent(t.Context(), "none")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, f.SetDefaultCryptoProvider("twin"))
	requireCurrent(t, f.Host, map[string]bool{"object": false})
}
