package exported_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/exported"
)

func TestList(t *testing.T) {
	names, err := exported.List("testdata/sample")
	require.NoError(t, err)
	require.Equal(t, []string{
		"const Shown",
		"embedded Box.Mutex",
		"embedded Box.inner",
		"embedded Port.Locker",
		"field Box.Content",
		"func New",
		"method Box.Open",
		"method Port.Do",
		"type Box",
		"type Name",
		"type Port",
		"var ErrShown",
	}, names)
}
