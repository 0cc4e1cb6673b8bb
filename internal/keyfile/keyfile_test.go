//go:build unix

package keyfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/keyfile"
	"piko.sh/pikokms/provider"
)

func write(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	require.NoError(t, os.Chmod(name, mode))
	return name
}

// Read is asked by every mode that a file of a secret key or a public one can have.
func TestFilesThatOthersHaveAccessTo(t *testing.T) {
	secret, public := func([]byte) bool { return true }, func([]byte) bool { return false }
	for mode := fs.FileMode(0o400); mode <= 0o777; mode++ {
		name := write(t, "text", mode)
		if mode&0o400 == 0 {
			continue // not readable by us, unless we are root
		}
		text, changed, err := keyfile.Read(name, public)
		if mode&0o022 != 0 {
			require.ErrorIs(t, err, provider.ErrInvalidKey, "%o", mode)
			require.ErrorContains(t, err, "run chmod go-w on it")
			require.Nil(t, text)
		} else {
			require.NoError(t, err, "%o", mode)
			require.Equal(t, "text", string(text))
			require.False(t, changed.IsZero())
		}
		_, _, err = keyfile.Read(name, secret)
		if mode&0o077 != 0 {
			require.ErrorIs(t, err, provider.ErrInvalidKey, "%o", mode)
			require.ErrorContains(t, err, "run chmod 600 on it")
		} else {
			require.NoError(t, err, "%o", mode)
		}
	}
}

func TestTheTargetOfALinkCounts(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(write(t, "text", 0o666), link))
	_, _, err := keyfile.Read(link, func([]byte) bool { return false })
	require.ErrorContains(t, err, "has mode 0666")
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink(write(t, "text", 0o600), link)) // a link itself has mode 0777
	_, _, err = keyfile.Read(link, func([]byte) bool { return true })
	require.NoError(t, err)
}

// The owner of a file can change it, whatever its mode says.
func TestFilesOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can give a file away")
	}
	name := write(t, "text", 0o400)
	require.NoError(t, os.Chown(name, 12345, 0))
	_, _, err := keyfile.Read(name, func([]byte) bool { return false })
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	require.ErrorContains(t, err, "belongs to user 12345")
}

func TestFilesThatAreNoKeys(t *testing.T) {
	any := func([]byte) bool { return false }
	_, _, err := keyfile.Read(filepath.Join(t.TempDir(), "none"), any)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, _, err = keyfile.Read(t.TempDir(), any)
	require.ErrorContains(t, err, "is a directory")
	_, _, err = keyfile.Read(write(t, string(make([]byte, 16<<10+1)), 0o600), any)
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	text, _, err := keyfile.Read(write(t, string(make([]byte, 16<<10)), 0o600), any)
	require.NoError(t, err)
	require.Len(t, text, 16<<10)
}
