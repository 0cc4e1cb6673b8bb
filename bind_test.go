package pikokms_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// What was stored before BindObjectName becomes bound, with its compression, unless it is bound
// already or was changed.
func TestBindObject(t *testing.T) {
	content := strings.Repeat("content ", 1000)
	for name, options := range map[string][]pikokms.Option{"plain": nil, "compressed": {pikokms.WithEnabledTransformers("zstd")}} {
		t.Run(name, func(t *testing.T) {
			unbound := newFixture(t, options...)
			require.NoError(t, unbound.Put(t.Context(), "a", strings.NewReader(content)))
			before := unbound.stored(t, "a")
			_, err := unbound.BindObject(t.Context(), "a", bytes.NewReader(before))
			require.ErrorIs(t, err, pikokms.ErrConfig)

			bound := newFixture(t, pikokms.BindObjectName("b"))
			_, err = bound.BindObject(t.Context(), "a", strings.NewReader("plain"))
			require.ErrorIs(t, err, pikokms.ErrPlaintext)
			renewed, err := bound.BindObject(t.Context(), "a", bytes.NewReader(before))
			require.NoError(t, err)
			after, err := io.ReadAll(renewed)
			require.NoError(t, err)
			h, _, err := header.Parse(after, header.Limits{})
			require.NoError(t, err)
			_, compressed := h.EncryptionContext[pikokms.PairTransformers]
			require.Equal(t, options != nil, compressed)
			require.NotContains(t, h.EncryptionContext, pikokms.PairObject, "it is required, and not stored")

			got, _, err := bound.DecryptObject(t.Context(), "a", bytes.NewReader(after), int64(len(after)), nil)
			require.NoError(t, err)
			text, err := io.ReadAll(got)
			require.NoError(t, err)
			require.Equal(t, content, string(text))
			_, _, err = bound.DecryptObject(t.Context(), "another", bytes.NewReader(after), int64(len(after)), nil)
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, _, err = bound.DecryptObject(t.Context(), "a", bytes.NewReader(after), int64(len(after)), map[string]string{pikokms.PairObject: "another"})
			require.ErrorIs(t, err, provider.ErrContextMismatch)
			_, err = bound.BindObject(t.Context(), "a", bytes.NewReader(after))
			require.ErrorIs(t, err, provider.ErrDecryptionFailed, "it is bound already")

			for i := range before {
				changed := bytes.Clone(before)
				changed[i] ^= 1
				renewed, err := bound.BindObject(t.Context(), "a", bytes.NewReader(changed))
				if err == nil {
					_, err = io.ReadAll(renewed)
				}
				require.Error(t, err, "byte %d", i)
				if i > 400 { // the content is much the same
					break
				}
			}
		})
	}
}
