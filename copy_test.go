package pikokms_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider"
)

// A copy is bound to its new name and under the key of now, and what no host stored is not copied,
// whatever may be read.
func TestCopyObject(t *testing.T) {
	f := newFixture(t, pikokms.BindObjectName("b"), pikokms.AllowPlaintext(), pikokms.AllowForeignMessages(), pikokms.WithEnabledTransformers("zstd"))
	content := strings.Repeat("a document, ", 20_000)
	require.NoError(t, f.Put(t.Context(), "from", strings.NewReader(content)))
	copied, err := f.CopyObject(t.Context(), "to", "from", bytes.NewReader(f.stored(t, "from")))
	require.NoError(t, err)
	require.NoError(t, f.folder.Put(t.Context(), "to", copied))
	got, err := get(t, f, "to")
	require.NoError(t, err)
	require.Equal(t, content, got)
	require.NoError(t, f.folder.Put(t.Context(), "elsewhere", bytes.NewReader(f.stored(t, "to"))))
	_, err = get(t, f, "elsewhere")
	require.ErrorIs(t, err, provider.ErrContextMismatch)
	_, err = f.CopyObject(t.Context(), "to", "from", strings.NewReader("planted"))
	require.ErrorIs(t, err, pikokms.ErrPlaintext)
	_, err = f.CopyObject(t.Context(), "to", "another", bytes.NewReader(f.stored(t, "from")))
	require.ErrorIs(t, err, provider.ErrContextMismatch)
}
