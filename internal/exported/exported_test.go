package exported_test

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
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

// most is how many names the published packages export together. Lower it with each name that goes.
// A name that is added needs another that goes, or a reason.
const most = 827

// TestTotal keeps the API from growing unnoticed. It counts what List lists, but no packages of
// commands, examples, tests of the repository and internal ones.
func TestTotal(t *testing.T) {
	total := 0
	for _, folder := range published(t) {
		names, err := exported.List(folder)
		require.NoError(t, err)
		total += len(names)
	}
	require.Greater(t, total, most/2, "the packages are found")
	require.LessOrEqual(t, total, most, "list what is new with git diff -- '*exported.txt'")
}

// published returns the folders of the packages that users import, without those of commands.
func published(t *testing.T) (folders []string) {
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name := entry.Name()
		if slices.Contains([]string{"internal", "testdata", "cmd", "lab", "examples"}, name) || path != root && strings.HasPrefix(name, ".") {
			return filepath.SkipDir
		}
		folders = append(folders, path)
		return nil
	})
	require.NoError(t, err)
	return folders
}
