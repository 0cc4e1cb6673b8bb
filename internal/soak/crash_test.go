package soak_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/soak"
)

var kills = flag.Int("soak.kills", 10, "how many processes TestKilledWhileWritingToAFolder kills")

// TestKilledWhileWritingToAFolder kills processes that write to a folder, by SIGKILL.
func TestKilledWhileWritingToAFolder(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := filepath.Join(t.TempDir(), "objects")
	open := func(dir string) (pikokms.Storage, error) { return folderstorage.New(dir) }
	soak.Crash{Kills: *kills, Place: dir, Open: open}.Run(t)

	// What an unfinished Put leaves is no object, and is swept when it is a day old.
	rests := 0
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".pikokms-tmp-") {
			rests++
		}
	}
	t.Logf("%d temporary files are left, to be swept after a day", rests)
}
