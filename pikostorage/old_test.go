package pikostorage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider/local"
)

// prefixing is a crypto provider that "encrypts" by a prefix.
type prefixing struct {
	keys
	prefix string
	down   bool
	asked  *int
}

func (p prefixing) open(text string) (string, error) {
	*p.asked++
	if p.down {
		return "", fmt.Errorf("%w: connection refused", crypto.ErrProviderUnavailable)
	}
	rest, ok := strings.CutPrefix(text, p.prefix)
	if !ok {
		return "", crypto.ErrDecryptionFailed
	}
	return rest, nil
}

func (p prefixing) Encrypt(_ context.Context, request *crypto.EncryptRequest) (*crypto.EncryptResponse, error) {
	return &crypto.EncryptResponse{Ciphertext: p.prefix + request.Plaintext}, nil
}

func (p prefixing) Decrypt(_ context.Context, request *crypto.DecryptRequest) (*crypto.DecryptResponse, error) {
	text, err := p.open(request.Ciphertext)
	if err != nil {
		return nil, err
	}
	return &crypto.DecryptResponse{Plaintext: text}, nil
}

func (p prefixing) DecryptStream(_ context.Context, input io.Reader) (io.ReadCloser, error) {
	start := make([]byte, len(p.prefix))
	if _, err := io.ReadFull(input, start); err != nil {
		return nil, err
	}
	if _, err := p.open(string(start)); err != nil {
		return nil, err
	}
	return io.NopCloser(input), nil
}

// TestAlsoDecrypt: an application that changed its provider reads strings, streams and objects of
// the old one, and encrypts under the new one.
func TestAlsoDecrypt(t *testing.T) {
	keyring := func(key byte, name string) keys {
		p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{key}, 32), Name: name})
		require.NoError(t, err)
		return keys{behind: p}
	}
	asked := 0
	fresh := prefixing{keyring(1, "new"), "new-key:", false, &asked}
	old := prefixing{keyring(2, "old"), "old:", false, &asked}
	both := pikostorage.AlsoDecrypt(fresh, old)

	made, err := both.Encrypt(t.Context(), &crypto.EncryptRequest{Plaintext: "text"})
	require.NoError(t, err)
	require.Equal(t, "new-key:text", made.Ciphertext)
	for _, ciphertext := range []string{"new-key:some text", "old:some text"} {
		got, err := both.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: ciphertext})
		require.NoError(t, err)
		require.Equal(t, "some text", got.Plaintext)
		r, err := both.DecryptStream(t.Context(), strings.NewReader(ciphertext))
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "some text", string(content))
	}
	_, err = both.Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "another"})
	require.ErrorIs(t, err, crypto.ErrDecryptionFailed)

	asked = 0
	fresh.down = true
	_, err = pikostorage.AlsoDecrypt(fresh, old).Decrypt(t.Context(), &crypto.DecryptRequest{Ciphertext: "old:some text"})
	require.ErrorIs(t, err, crypto.ErrProviderUnavailable)
	require.Equal(t, 1, asked, "an old provider is not asked while the new one can't answer")

	inner := newShelf(false)
	content := document(100_000)
	require.NoError(t, pikostorage.Encrypt(inner, old).Put(t.Context(), upload("a", content)))
	p := pikostorage.Encrypt(inner, both)
	require.NoError(t, p.Put(t.Context(), upload("b", content)))
	for _, key := range []string{"a", "b"} {
		got, err := read(t, p, at("default", key))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got))
	}
	_, err = read(t, pikostorage.Encrypt(inner, fresh), at("default", "a"))
	require.Error(t, err)
	_, err = read(t, pikostorage.Encrypt(inner, old), at("default", "b"))
	require.Error(t, err, "it is under the new key")
	require.Panics(t, func() {
		pikostorage.Encrypt(inner, pikostorage.AlsoDecrypt(fresh, struct{ crypto.EncryptionProvider }{}))
	})
	require.NoError(t, errors.Join(both.(io.Closer).Close(), both.(io.Closer).Close()))
}
