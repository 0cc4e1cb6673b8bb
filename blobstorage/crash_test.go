package blobstorage

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob/fileblob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/soak"
)

var kills = flag.Int("soak.kills", 10, "how many processes TestKilledWhileWritingToABucket kills")

// TestKilledWhileWritingToABucket kills processes that write to a bucket of files, by SIGKILL. The
// bucket has its temporary files beside it: with NoTempDir, those of a killed process would be
// listed as objects. It has no files of attributes, which fileblob does not replace in one step: an
// object whose writer is killed meanwhile can't be read.
func TestKilledWhileWritingToABucket(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := filepath.Join(t.TempDir(), "objects")
	open := func(dir string) (pikokms.Storage, error) {
		temporary := dir + ".tmp"
		if err := os.MkdirAll(temporary, 0o700); err != nil {
			return nil, err
		}
		if err := os.Setenv("TMPDIR", temporary); err != nil {
			return nil, err
		}
		bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{CreateDir: true, Metadata: fileblob.MetadataDontWrite})
		if err != nil {
			return nil, err
		}
		return New(bucket, nil), nil
	}
	t.Setenv("TMPDIR", os.TempDir()) // as it was, in the end
	soak.Crash{Kills: *kills, Place: dir, Open: open}.Run(t)
	rests, err := os.ReadDir(dir + ".tmp")
	require.NoError(t, err)
	t.Logf("%d temporary files are left beside the bucket", len(rests))
}
