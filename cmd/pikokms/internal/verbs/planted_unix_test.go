//go:build unix

package verbs

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
)

// TestWhatAnotherUserPlantedIsRefused checks that no output goes through another user's pipe or
// link in a folder where everyone can make files.
func TestWhatAnotherUserPlantedIsRefused(t *testing.T) {
	race.SkipShort(t)
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can give a file away")
	}
	const mallory = 12345
	dir, shared := t.TempDir(), filepath.Join(t.TempDir(), "tmp")
	key := "local:" + filepath.Join(dir, "dev.key")
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "in"), 0o700))
	in, precious := filepath.Join(dir, "in", "notes"), filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(in, []byte("secret"), 0o600))
	require.NoError(t, os.WriteFile(precious, []byte("precious"), 0o600))

	plant := func(make func(path string) error) (path string) {
		require.NoError(t, os.RemoveAll(shared))
		require.NoError(t, os.Mkdir(shared, 0o700))
		require.NoError(t, os.Chmod(shared, 0o777|os.ModeSticky))
		path = filepath.Join(shared, "out")
		require.NoError(t, make(path))
		require.NoError(t, os.Lchown(path, mallory, mallory))
		return path
	}
	fifo := func(path string) error { return syscall.Mkfifo(path, 0o666) }
	link := func(path string) error { return os.Symlink(precious, path) }
	file := func(path string) error { return os.WriteFile(path, nil, 0o666) }
	folder := func(path string) error { return os.Symlink(dir, path) }

	refused := func(path, says string, arguments ...string) {
		t.Helper()
		_, stderr, took, err := execute(t, arguments...)
		require.Error(t, err, arguments)
		require.Contains(t, stderr, says)
		require.Contains(t, stderr, "another user has put it there")
		require.Less(t, took, time.Minute)
		content, err := os.ReadFile(precious)
		require.NoError(t, err)
		require.Equal(t, "precious", string(content))
	}
	path := plant(fifo)
	refused(path, "is a named pipe", "encrypt", "-k", key, "-o", path, in)
	refused(path, "is a named pipe", "verify", "-k", key, "--report", path, in)
	path = plant(link)
	refused(path, "is a symbolic link", "encrypt", "-f", "-k", key, "-o", path, in)
	refused(path, "is a symbolic link", "verify", "-k", key, "--report", path, in)
	refused(path, "is a symbolic link", "verify", "-k", key, "--resume", path, in)
	path = plant(folder)
	refused(path, "is a symbolic link", "encrypt", "-f", "-k", key, "-o", filepath.Join(path, "precious"), in)
	refused(path, "is a symbolic link", "verify", "-k", key, "--report", filepath.Join(path, "precious"), in)
	path = plant(file)
	refused(path, "is a file", "verify", "-k", key, "--report", path, in)

	// The user's own are used, and so are others' in folders where only they can have put them.
	path = plant(link)
	require.NoError(t, os.Lchown(path, 0, 0))
	_, stderr, _, err = execute(t, "encrypt", "-f", "-k", key, "-o", path, in)
	require.NoError(t, err, stderr)
	path = plant(fifo)
	require.NoError(t, os.Chmod(shared, 0o700))
	read := make(chan []byte, 1)
	go func() {
		content, _ := os.ReadFile(path)
		read <- content
	}()
	_, stderr, _, err = execute(t, "encrypt", "-k", key, "-o", path, in)
	require.NoError(t, err, stderr)
	require.NotEmpty(t, <-read)
}

// TestOwnStreamsAreWrittenOn writes to a stream of the process that is a file, by any of its names.
// The command appends: what was there stays, and what is written later follows.
func TestOwnStreamsAreWrittenOn(t *testing.T) {
	race.SkipShort(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	_, stderr, _, err := execute(t, "keygen", "-o", at("dev.key"))
	require.NoError(t, err, stderr)
	require.NoError(t, os.WriteFile(at("in"), []byte("content\n"), 0o600))
	_, stderr, _, err = execute(t, "encrypt", "-k", "local:"+at("dev.key"), "-o", at("enc"), at("in"))
	require.NoError(t, err, stderr)
	require.NoError(t, os.Symlink("/dev/stdout", at("link")))
	names := []string{"-", "/dev/stdout", "/dev/fd/1", "/dev/fd/3", at("link"), at("out")}
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		names = append(names, "/proc/self/fd/1", "/proc/self/fd/3")
	}
	for _, name := range names {
		for _, flags := range [][]string{nil, {"-f"}} {
			out, err := os.OpenFile(at("out"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
			require.NoError(t, err)
			before, err := out.Stat()
			require.NoError(t, err)
			_, err = io.WriteString(out, "before\n")
			require.NoError(t, err)
			command := exec.CommandContext(t.Context(), "pikokms", append([]string{"decrypt"}, append(flags, "-k", "local:"+at("dev.key"), "-o", name, at("enc"))...)...)
			command.Env, command.Stdout, command.ExtraFiles = append(os.Environ(), "GORACE="+noRaceSleep), out, []*os.File{out}
			said, err := command.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, command.Start())
			text, _ := io.ReadAll(said)
			require.NoError(t, command.Wait(), "%s: %s", name, text)
			_, err = io.WriteString(out, "after\n")
			require.NoError(t, err)
			after, err := os.Stat(at("out"))
			require.NoError(t, err)
			require.True(t, os.SameFile(before, after), name)
			require.NoError(t, out.Close())
			content, err := os.ReadFile(at("out"))
			require.NoError(t, err)
			require.Equal(t, "before\ncontent\nafter\n", string(content), "%s %s", name, flags)
		}
	}
	out, err := os.OpenFile(at("out"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	_, err = io.WriteString(out, "before\n")
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), "pikokms", "verify", "-k", "local:"+at("dev.key"), "--report", "/dev/stdout", at("enc"))
	command.Env, command.Stdout = append(os.Environ(), "GORACE="+noRaceSleep), out
	require.NoError(t, command.Run())
	require.NoError(t, out.Close())
	content, err := os.ReadFile(at("out"))
	require.NoError(t, err)
	require.Regexp(t, "^before\n{.*\"result\":\"verified\".*}\n$", string(content))
}
