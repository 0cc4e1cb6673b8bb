package recent_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/recent"
)

func TestPartsKeepTheLastUsed(t *testing.T) {
	var parts recent.Parts
	p := make([]byte, 10)
	require.Zero(t, parts.Copy(p, 0))
	for i := range int64(recent.Size) {
		parts.Keep(10*i, []byte{byte(i), byte(i), byte(i)})
	}
	require.Equal(t, 3, parts.Copy(p, 0), "the first one is used again")
	parts.Keep(100, []byte{100})
	require.Zero(t, parts.Copy(p, 10), "the one not used for longest is gone")
	require.Equal(t, 2, parts.Copy(p, 1))
	require.Equal(t, []byte{0, 0}, p[:2])
	require.Equal(t, 1, parts.Copy(p, 100))
	require.Zero(t, parts.Copy(p, 101))
	require.Equal(t, 1, parts.Copy(p[:1], 20), "as much as there is room for")
}
