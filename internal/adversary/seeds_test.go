package adversary_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSeedsAreBesideTheirFuzzTests looks for the fuzz test of each folder of seeds. Where it has
// another name, or is elsewhere, go test ignores the seeds.
func TestSeedsAreBesideTheirFuzzTests(t *testing.T) {
	top := filepath.Join("..", "..")
	declared := make(map[string]bool) // by the folders where their seeds belong
	var seeds []string
	declaration := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	require.NoError(t, filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && filepath.Base(filepath.Dir(path)) == "fuzz" && filepath.Base(filepath.Dir(filepath.Dir(path))) == "testdata":
			seeds = append(seeds, path)
		case strings.HasSuffix(path, "_test.go"):
			code, err := os.ReadFile(path)
			for _, found := range declaration.FindAllSubmatch(code, -1) {
				declared[filepath.Join(filepath.Dir(path), "testdata", "fuzz", string(found[1]))] = true
			}
			return err
		}
		return nil
	}))
	for _, folder := range seeds {
		require.True(t, declared[folder], "%s has seeds of no fuzz test beside it", folder)
	}
	require.Greater(t, len(seeds), 10)
}
