package pikostorage_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
)

func newTransformer(t *testing.T, name string) storage.StreamTransformerPort {
	k, _ := newKeys(t)
	transformer, err := pikostorage.NewTransformer(name, pikokms.WithCryptoProvider("kms", k.behind))
	require.NoError(t, err)
	return transformer
}

func TestTransformer(t *testing.T) {
	transformer := newTransformer(t, "pikokms")
	require.Equal(t, "pikokms", transformer.Name(), "Piko has taken the name crypto-service")
	require.Equal(t, storage.TransformerEncryption, transformer.Type())
	require.Equal(t, 250, transformer.Priority())

	pairs := map[string]string{"tenant": "42"}
	stored, err := transformer.Transform(t.Context(), strings.NewReader("content"), pairs)
	require.NoError(t, err)
	b, err := io.ReadAll(stored)
	require.NoError(t, err)
	for _, options := range []any{nil, pairs} {
		plain, err := transformer.Reverse(t.Context(), bytes.NewReader(b), options)
		require.NoError(t, err)
		got, err := io.ReadAll(plain)
		require.NoError(t, err)
		require.Equal(t, "content", string(got))
	}
	_, err = transformer.Reverse(t.Context(), bytes.NewReader(b), map[string]string{"tenant": "43"})
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	_, err = transformer.Transform(t.Context(), strings.NewReader(""), "tenant=42")
	require.ErrorIs(t, err, pikokms.ErrInvalidOptions)
	_, err = transformer.Transform(t.Context(), strings.NewReader(""), map[string]string{provider.PairUse: provider.UseObject})
	require.ErrorIs(t, err, pikokms.ErrInvalidOptions)
	_, err = transformer.Reverse(t.Context(), bytes.NewReader(b), 42)
	require.ErrorIs(t, err, pikokms.ErrInvalidOptions)
}

func TestTransformerThatCannotBeMade(t *testing.T) {
	k, _ := newKeys(t)
	for _, options := range [][]pikokms.Option{
		nil,
		{pikokms.WithCryptoProvider("kms", k.behind), pikokms.BindObjectName("app")},
	} {
		_, err := pikostorage.NewTransformer("pikokms", options...)
		require.ErrorIs(t, err, pikokms.ErrConfig)
	}
}

// Piko's pipeline sorts the transformers of its registry by priority, and knows nothing of them but
// its port.
func TestTransformerInAPipeline(t *testing.T) {
	text := strings.Repeat("a stored object, ", 20_000)
	transformers := []storage.StreamTransformerPort{newTransformer(t, "pikokms"), gzipped{}}
	slices.SortFunc(transformers, func(a, b storage.StreamTransformerPort) int { return a.Priority() - b.Priority() })
	var r io.Reader = strings.NewReader(text)
	var err error
	for _, transformer := range transformers {
		r, err = transformer.Transform(t.Context(), r, nil)
		require.NoError(t, err)
	}
	stored, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, header.Sniff(stored), "encryption comes last")
	require.Less(t, len(stored), len(text)/10)
	r = bytes.NewReader(stored)
	for _, transformer := range slices.Backward(transformers) {
		r, err = transformer.Reverse(t.Context(), r, nil)
		require.NoError(t, err)
	}
	original, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, text, string(original))
}
