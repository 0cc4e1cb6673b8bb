//go:build unix

package keyfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
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
		if mode&0o077 != 0 && mode != 0o440 { // the file has our own group
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

// Kubernetes mounts a secret as root's, readable by a group that the pod's processes are in.
func TestFilesOfAGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can give a file away")
	}
	secret := func([]byte) bool { return true }
	name := write(t, "text", 0o440)
	require.NoError(t, os.Chown(name, 0, 54321))
	_, _, err := keyfile.Read(name, secret)
	require.ErrorIs(t, err, provider.ErrInvalidKey, "a group that this process is not in")

	before, err := os.Getgroups()
	require.NoError(t, err)
	require.NoError(t, syscall.Setgroups(append(slices.Clone(before), 54321)))
	defer func() { require.NoError(t, syscall.Setgroups(before)) }()
	text, _, err := keyfile.Read(name, secret)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	for _, mode := range []fs.FileMode{0o460, 0o444, 0o450, 0o640} {
		require.NoError(t, os.Chmod(name, mode))
		_, _, err := keyfile.Read(name, secret)
		require.ErrorIs(t, err, provider.ErrInvalidKey, "%o", mode)
	}
}

// Windows' editors and shells write byte order marks, and UTF-16.
func TestTextOfWindows(t *testing.T) {
	const text = "AAECAwQFBgcICQoLDA0ODw==\r\n"
	little, big := "\xff\xfe", "\xfe\xff"
	for _, c := range text {
		little, big = little+string(c)+"\x00", big+"\x00"+string(c)
	}
	for name, written := range map[string]string{"UTF-8": text, "UTF-8 with a mark": "\ufeff" + text, "UTF-16LE": little, "UTF-16BE": big} {
		got, _, err := keyfile.Read(write(t, written, 0o600), func(decoded []byte) bool { return string(decoded) == text })
		require.NoError(t, err, name)
		require.Equal(t, text, string(got), name)
	}
	for name, written := range map[string]string{"cut": little[:7], "not ASCII": "\xff\xfe\xe9\x00", "Chinese": "\xff\xfe\x2d\x4e"} {
		_, _, err := keyfile.Read(write(t, written, 0o600), func([]byte) bool { return true })
		require.ErrorIs(t, err, provider.ErrInvalidKey, name)
		require.ErrorContains(t, err, "save it as UTF-8")
	}
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
