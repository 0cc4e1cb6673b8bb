//go:build unix

package verbs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/provider/local"
)

// user is a user without root's rights, who runs the command in a folder of their own.
type user struct {
	dir, binary string
	credential  *syscall.Credential // nil for who runs the tests
}

// newUser makes a user with a key, and with files of these names, each of which holds its own name.
func newUser(t *testing.T, names ...string) *user {
	u := &user{dir: t.TempDir(), binary: "pikokms"}
	for _, name := range names {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(u.dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(u.dir, name), []byte(name), 0o600))
	}
	require.NoError(t, local.Generate(filepath.Join(u.dir, "key")))
	if os.Geteuid() != 0 {
		return u
	}
	const nobody = 65534
	u.credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	binary, err := exec.LookPath("pikokms")
	require.NoError(t, err)
	content, err := os.ReadFile(binary)
	require.NoError(t, err)
	elsewhere := t.TempDir()
	u.binary = filepath.Join(elsewhere, "pikokms")
	require.NoError(t, os.WriteFile(u.binary, content, 0o755))
	for _, dir := range []string{elsewhere, filepath.Dir(elsewhere)} { // whatever the umask is
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, os.Chmod(u.binary, 0o755))
	require.NoError(t, filepath.WalkDir(u.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	}))
	return u
}

// hide makes a folder unreadable, even for its owner.
func (u *user) hide(t *testing.T, name string) {
	path := filepath.Join(u.dir, name)
	require.NoError(t, os.Chmod(path, 0))
	t.Cleanup(func() { require.NoError(t, os.Chmod(path, 0o700)) })
}

// command returns the command with arguments.
func (u *user) command(t *testing.T, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), u.binary, arguments...)
	command.Dir = u.dir
	command.Env = []string{"HOME=" + u.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + u.dir, "GORACE=" + noRaceSleep, "PIKOKMS_KEY="}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: u.credential}
	return command
}

// run runs the command, and returns its exit status.
func (u *user) run(t *testing.T, arguments ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, said bytes.Buffer
	command := u.command(t, arguments...)
	command.Stdout, command.Stderr = &out, &said
	if err := command.Run(); err != nil {
		_, ok := errors.AsType[*exec.ExitError](err)
		require.True(t, ok, "%v", err)
	}
	return out.String(), said.String(), command.ProcessState.ExitCode()
}

// TestFoldersThatCannotBeRead checks that a folder that can't be read is reported, and that the
// command works on the rest.
func TestFoldersThatCannotBeRead(t *testing.T) {
	const inSecret, inDeep = "photos/secret/x", "photos/a/secret/deep/y"
	u := newUser(t, "photos/a/b", inSecret, inDeep, "photos/z", "out/none")
	u.hide(t, "photos/secret")
	u.hide(t, "photos/a/secret")
	var report []work.Outcome
	fails := func(t *testing.T, says string, arguments ...string) string {
		t.Helper()
		stdout, stderr, status := u.run(t, arguments...)
		require.Equal(t, 1, status, stderr)
		require.Contains(t, stderr, says)
		return stdout + stderr
	}
	both := func(t *testing.T, said string) {
		t.Helper()
		require.Contains(t, said, "failed photos/a/secret/: the folder cannot be listed: permission denied\n")
		require.Contains(t, said, "failed photos/secret/: the folder cannot be listed: permission denied\n")
	}
	both(t, fails(t, "planned 2 objects of 18 bytes, 2 failed", "encrypt", "-k", "local:key", "--dry-run", "--in-place", "photos"))
	both(t, fails(t, "encrypted 2 objects of 18 bytes, 2 failed", "encrypt", "-k", "local:key", "--report", "report", "--in-place", "photos"))
	text, err := os.ReadFile(filepath.Join(u.dir, "report"))
	require.NoError(t, err)
	for lines := json.NewDecoder(bytes.NewReader(text)); lines.More(); {
		var o work.Outcome
		require.NoError(t, lines.Decode(&o))
		report = append(report, o)
	}
	require.Len(t, report, 4)
	require.Contains(t, report, work.Outcome{Name: "photos/secret/", Result: work.ResultFailed, Reason: "the folder cannot be listed: permission denied"})

	said := fails(t, "2 folders could not be listed", "ls", "photos")
	require.Contains(t, said, "photos/a/b\n")
	require.Contains(t, said, "photos/z\n")
	require.Contains(t, said, "photos/secret/: the folder cannot be listed: permission denied\n")
	said = fails(t, "2 folders could not be listed", "inspect", "photos")
	require.Contains(t, said, "unreadable  -       photos/secret/ the folder cannot be listed: permission denied\n")
	require.Contains(t, said, "encrypted   0x0478  photos/z ")
	require.Contains(t, fails(t, "2 folders", "inspect", "--json", "photos"),
		`{"name":"photos/secret/","kind":"unreadable","size":0,"error":"the folder cannot be listed: permission denied"}`)
	both(t, fails(t, "verified 2 objects of 18 bytes, 2 failed", "verify", "-k", "local:key", "photos"))
	fails(t, "decrypted 1 object", "decrypt", "-k", "local:key", "--include", "z", "-o", "out/", "photos")

	// A folder that is left out need not be readable.
	_, stderr, status := u.run(t, "verify", "-k", "local:key", "--exclude", "**secret/**", "photos")
	require.Equal(t, 0, status, stderr)
	require.NotContains(t, stderr, "secret")
	_, stderr, status = u.run(t, "verify", "-k", "local:key", "--exclude", "secret/*", "--exclude", "a/", "photos")
	require.Equal(t, 0, status, stderr)
	fails(t, "photos/secret/", "verify", "-k", "local:key", "--exclude", "secret/*.bak", "photos") // it may have others

	t.Run("in a folder that gocloud.dev keeps", func(t *testing.T) {
		url := "file://" + filepath.ToSlash(u.dir) + "/photos"
		said := fails(t, "2 folders could not be listed", "ls", url)
		require.Contains(t, said, "/photos/z\n")
		said = fails(t, "verified 2 objects of 18 bytes, 2 failed", "verify", "-k", "local:key", url)
		require.Contains(t, said, "/photos/a/secret/: the folder cannot be listed: permission denied\n")
		said = fails(t, "1 failed", "verify", "-k", "local:key", "file://"+filepath.ToSlash(u.dir)+"?prefix=photos/a/")
		require.Contains(t, said, "/secret/: the folder cannot be listed")
		fails(t, "permission denied", "ls", url+"/secret")
	})

	t.Run("resumed", func(t *testing.T) {
		command := []string{"encrypt", "-k", "local:key", "--resume", "job", "--in-place", "photos"}
		fails(t, "encrypted 0 objects of 0 bytes, 2 skipped, 2 failed", command...)
		both(t, fails(t, "2 skipped (2 of them before), 2 failed", command...))
		require.NoError(t, os.Chmod(filepath.Join(u.dir, "photos", "secret"), 0o700))
		fails(t, "encrypted 1 object of 15 bytes, 2 skipped (2 of them before), 1 failed", command...)
		require.NoError(t, os.Chmod(filepath.Join(u.dir, "photos", "a", "secret"), 0o700))
		_, stderr, status := u.run(t, command...)
		require.Equal(t, 0, status, stderr)
		require.Contains(t, stderr, "encrypted 2 objects (1 of them before) of 37 bytes, 2 skipped (2 of them before)")
		require.NoFileExists(t, filepath.Join(u.dir, "job"))
		_, stderr, status = u.run(t, "verify", "-k", "local:key", "photos")
		require.Equal(t, 0, status, stderr)
		require.Contains(t, stderr, "verified 4 objects")
	})
}

// A page shows what can be read.
func TestServedFolderThatCannotBeRead(t *testing.T) {
	u := newUser(t, "photos/secret/x", "photos/a/secret/y", "photos/z")
	u.hide(t, "photos/secret")
	u.hide(t, "photos/a/secret")
	s := startServing(t, u.command(t, "serve", "--address", "127.0.0.1:0", "-k", "local:key", "photos"))
	get := func(path string) (string, int) {
		answer, text := s.ask(http.MethodGet, path)
		return text, answer.StatusCode
	}
	text, status := get("/")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, `<td>secret <small>cannot be read</small></td>`)
	require.Contains(t, text, `<a href="./a/">a/</a>`)
	_, status = get("/a")
	require.Equal(t, http.StatusFound, status)
	text, status = get("/a/")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, `<td>secret <small>cannot be read</small></td>`)
	_, status = get("/secret/")
	require.Equal(t, http.StatusForbidden, status)
	for _, part := range []string{"photos/secret/: ", "permission denied"} {
		require.Eventually(t, func() bool { return strings.Contains(s.stderr(), part) }, time.Minute, 10*time.Millisecond, part)
	}
}
