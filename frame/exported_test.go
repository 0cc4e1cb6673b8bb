package frame_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/exported"
)

// TestExported compares the exported identifiers with a list, so that none is exported by accident.
func TestExported(t *testing.T) {
	names, err := exported.List(".")
	require.NoError(t, err)
	want, err := os.ReadFile("testdata/exported.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), strings.Join(names, "\n")+"\n")
}
