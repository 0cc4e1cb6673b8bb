package adversary_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestThreatsNameTests looks for each test that docs/THREATS.md names, in the folder that it names.
func TestThreatsNameTests(t *testing.T) {
	top := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(top, "docs", "THREATS.md"))
	require.NoError(t, err)
	declared := make(map[string][]string) // folders, by test
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	require.NoError(t, filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		folder, _ := filepath.Rel(top, filepath.Dir(path))
		for _, found := range declaration.FindAllSubmatch(code, -1) {
			declared[string(found[1])] = append(declared[string(found[1])], filepath.ToSlash(folder))
		}
		return err
	}))
	named := 0
	for line := range strings.Lines(string(text)) {
		var waiting []string // tests whose folder comes later in the line
		for _, found := range regexp.MustCompile("`(Test\\w+)`|in `([^`]+)`").FindAllStringSubmatch(line, -1) {
			if found[1] != "" {
				waiting = append(waiting, found[1])
				require.NotEmpty(t, declared[found[1]], "%s is no test", found[1])
				named++
				continue
			}
			for _, test := range waiting {
				require.Contains(t, declared[test], found[2], test)
			}
			waiting = nil
		}
	}
	require.Greater(t, named, 30)
}
