//go:build unix

package verbs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"

	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/outfile"
	"piko.sh/pikokms/provider/local"
)

// resultsOf returns the results in a report, by the last part of each object's name.
func resultsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	results := make(map[string]string)
	for lines := json.NewDecoder(bytes.NewReader(text)); lines.More(); {
		var o work.Outcome
		require.NoError(t, lines.Decode(&o))
		results[strings.TrimPrefix(filepath.Base(o.Name), `"`)] = o.Result
	}
	return results
}

// TestWhatIsLeftOut checks that everything that is left out of a place is counted and named. The
// exit status is 1 if it may hold content and is not excluded.
func TestWhatIsLeftOut(t *testing.T) {
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(key))
	in := filepath.Join(dir, "in")
	require.NoError(t, os.MkdirAll(filepath.Join(in, "empty"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(in, "a", ".git"), 0o700))
	for _, name := range []string{"elsewhere", "in/a/file", "in/a/.git/config", "in/caf\xe9", "in/x", "in/y.attrs"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	bucket, err := blob.OpenBucket(t.Context(), "file://"+in+"?no_tmp_dir=true")
	require.NoError(t, err)
	require.NoError(t, bucket.WriteAll(t.Context(), "x", []byte("in/x"), nil)) // with its metadata in x.attrs
	require.NoError(t, bucket.Close())
	require.NoError(t, os.Symlink("../elsewhere", filepath.Join(in, "outside")))
	require.NoError(t, os.Symlink("a/file", filepath.Join(in, "inside")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(in, "dangling")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(in, "pipe"), 0o600))
	report := filepath.Join(dir, "report")
	run := func(place string, arguments ...string) (stderr string, failed bool) {
		t.Helper()
		_, stderr, _, err := execute(t, append(append([]string{"encrypt", "-k", "local:" + key, "--in-place", "--report", report}, arguments...), place)...)
		return stderr, err != nil
	}
	others := "; left out 1 symbolic link, 1 symbolic link to no file, 1 symbolic link out of the place, 1 named pipe, 1 empty folder, 1 metadata file\n"

	said, failed := run(in, "--exclude", ".git", "--exclude", "nothing")
	require.True(t, failed, said)
	require.Contains(t, said, `--exclude "nothing" matches nothing`)
	require.NotContains(t, said, `"\.git" matches nothing`)
	require.Contains(t, said, "left out "+filepath.Join(in, "outside")+": it is a symbolic link to what is not in this place")
	require.Contains(t, said, others)
	require.Contains(t, said, "1 of what is left out may hold content; --exclude leaves it out knowingly")
	results := resultsOf(t, report)
	require.Equal(t, map[string]string{"file": "encrypted", `caf\xe9"`: "encrypted", "x": "encrypted", "x.attrs": "left out", "y.attrs": "encrypted",
		"outside": "left out", "inside": "left out", "dangling": "left out", "pipe": "left out", "empty": "left out"}, results)
	content, err := os.ReadFile(filepath.Join(in, "a", ".git", "config"))
	require.NoError(t, err)
	require.Equal(t, "in/a/.git/config", string(content))

	said, failed = run(in, "--exclude", "a/.git/", "--exclude", "/outside")
	require.False(t, failed, said)
	require.NotContains(t, said, "matches nothing")
	stdout, _, _, err := execute(t, "ls", in)
	require.NoError(t, err)
	require.Contains(t, stdout, "-  left-out   "+filepath.Join(in, "pipe")+"\n")
	_, said, _, err = execute(t, "inspect", "--include", "outside", "--include", "x", in)
	require.Error(t, err)
	require.Contains(t, said, "may hold content")
	_, said, _, err = execute(t, "verify", "-k", "local:"+key, "--exclude", ".git", "--exclude", "out*", in)
	require.NoError(t, err, said)
	require.Contains(t, said, "verified 4 objects")

	t.Run("in a folder that gocloud.dev keeps", func(t *testing.T) {
		said, failed := run("file://"+in, "--exclude", ".git", "--exclude", "caf?")
		require.True(t, failed)
		require.Contains(t, said, "1 metadata file, 1 file named as metadata")
		require.Contains(t, said, "2 of what is left out may hold content")
		said, failed = run("file://"+in, "--exclude", ".git", "--exclude", "caf?", "--exclude", "outside", "--exclude", "y.attrs")
		require.False(t, failed, said)
	})
}

// TestDryRunNamesObjects checks that a dry run names each object that it would work on.
func TestDryRunNamesObjects(t *testing.T) {
	dir, key, _ := newFolder(t, 3)
	_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--dry-run", "--in-place", dir)
	require.NoError(t, err, stderr)
	for _, name := range []string{"0", "2", "sub/1"} {
		require.Contains(t, stderr, "planned "+filepath.Join(dir, name)+": 100")
	}
	require.Contains(t, stderr, "planned 3 objects of 3003 bytes")
}

// TestBeginsAsAMessage encrypts objects that begin as a message and are not one, in a folder and
// alone. They are neither left plain silently nor encrypted without being asked for.
func TestBeginsAsAMessage(t *testing.T) {
	race.SkipShort(t)
	dir, key, _ := newFolder(t, 2)
	odd := map[string][]byte{"v1": []byte("\x01\x80\x00\x14 plain"), "v2": []byte("\x02\x05\x78 plain"), "piko": []byte("\x02\x00 plain"), "short": []byte("\x02\x04\x78\x00")}
	for name, content := range odd {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	encrypt := []string{"encrypt", "-k", "local:" + key}
	_, stderr, _, err := execute(t, append(encrypt, "--in-place", dir)...)
	require.Error(t, err)
	require.Contains(t, stderr, "encrypted 2 objects of 2001 bytes, 4 failed")
	for name, content := range odd {
		path := filepath.Join(dir, name)
		require.Contains(t, stderr, "failed "+path+": it begins as an encrypted object, but its header is none")
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, now)
		_, alone, _, err := execute(t, append(encrypt, "-o", filepath.Join(t.TempDir(), "out"), path)...)
		require.Error(t, err)
		require.Contains(t, alone, "--malformed-as-plaintext encrypts it")
	}
	_, stderr, _, err = execute(t, append(encrypt, "--in-place", "--malformed-as-plaintext", dir)...)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "encrypted 4 objects of")
	require.Contains(t, stderr, "2 skipped")
	for name, content := range odd {
		stdout, stderr, _, err := execute(t, "decrypt", "-k", "local:"+key, filepath.Join(dir, name))
		require.NoError(t, err, stderr)
		require.Equal(t, string(content), stdout)
	}
	out := filepath.Join(t.TempDir(), "out")
	_, stderr, _, err = execute(t, append(encrypt, "--malformed-as-plaintext", "-o", out, filepath.Join(dir, "v2"))...)
	require.Error(t, err)
	require.Contains(t, stderr, "it is encrypted already")
	require.NoFileExists(t, out)
}

// TestInPlaceKeepsOwnerModeAndTime checks that work in place keeps a file's owner, group, mode and
// time.
func TestInPlaceKeepsOwnerModeAndTime(t *testing.T) {
	race.SkipShort(t)
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	dir, key, _ := newFolder(t, 1)
	alone := filepath.Join(dir, "alone")
	require.NoError(t, os.WriteFile(alone, []byte("alone"), 0o600))
	other := filepath.Join(t.TempDir(), "other.key")
	require.NoError(t, local.Generate(other))
	path := filepath.Join(dir, "0")
	var before []os.FileInfo
	for _, file := range []string{path, alone} {
		require.NoError(t, os.Chown(file, 65534, 1234))
		require.NoError(t, os.Chmod(file, 0o664))
		info, err := os.Stat(file)
		require.NoError(t, err)
		old := info.ModTime().AddDate(-6, 0, 0)
		require.NoError(t, os.Chtimes(file, old, old))
		info, err = os.Stat(file)
		require.NoError(t, err)
		before = append(before, info)
	}
	for _, arguments := range [][]string{
		{"encrypt", "-k", "local:" + key + "?name=old"}, {"rewrap", "-k", "local:" + key + "?name=old", "--to", "local:" + other}, {"decrypt", "-k", "local:" + other},
	} {
		for _, place := range []string{alone, dir} {
			_, stderr, _, err := execute(t, append(arguments, "--in-place", place)...)
			if arguments[0] == "decrypt" && place == dir {
				require.Error(t, err) // one is plain by now
			} else {
				require.NoError(t, err, stderr)
			}
		}
		for _, was := range before {
			now, err := os.Stat(filepath.Join(dir, was.Name()))
			require.NoError(t, err)
			require.Equal(t, was.Mode(), now.Mode(), arguments[0])
			require.True(t, was.ModTime().Equal(now.ModTime()), "%s: %v, not %v", arguments[0], now.ModTime(), was.ModTime())
			require.Equal(t, was.Sys().(*syscall.Stat_t).Uid, now.Sys().(*syscall.Stat_t).Uid)
			require.Equal(t, was.Sys().(*syscall.Stat_t).Gid, now.Sys().(*syscall.Stat_t).Gid)
		}
	}
	// A user other than root can't give a file back to its owner, and leaves it as it is.
	u := newUser(t, "in/mine", "in/theirs")
	require.NoError(t, os.Chown(filepath.Join(u.dir, "in/theirs"), 0, 65534))
	require.NoError(t, os.Chmod(filepath.Join(u.dir, "in/theirs"), 0o664))
	_, stderr, status := u.run(t, "encrypt", "-k", "local:key", "--in-place", "in")
	require.Equal(t, 1, status)
	require.Contains(t, stderr, "failed in/theirs: ")
	require.Contains(t, stderr, "its owner is user 0, and only root can keep that")
	content, err := os.ReadFile(filepath.Join(u.dir, "in/theirs"))
	require.NoError(t, err)
	require.Equal(t, "in/theirs", string(content))
}

// TestAGroupThatIsNotKept checks that a file whose group can't be kept does not give the group's
// rights to another group.
func TestAGroupThatIsNotKept(t *testing.T) {
	u := newUser(t, "old", "new")
	if u.credential == nil {
		t.Skip("only root makes files of other groups")
	}
	file, err := os.OpenFile(filepath.Join(u.dir, "new"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, os.Chmod(filepath.Join(u.dir, "old"), 0o664))
	info, err := os.Stat(filepath.Join(u.dir, "old"))
	require.NoError(t, err)
	require.NoError(t, outfile.KeepOwner(file, info))
	now, err := file.Stat()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o664), now.Mode())
}

// TestTwoNamesForOneFile writes to a folder in which two names are the same file. No result takes
// the place of another, whatever --jobs is, with -f and without.
func TestTwoNamesForOneFile(t *testing.T) {
	race.SkipShort(t)
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(key))
	const names = 12
	for n := range names {
		for _, folder := range []string{"up", "UP"} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "in", folder), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "in", folder, fmt.Sprint(n)), []byte(folder), 0o600))
		}
	}
	for _, flags := range [][]string{{"--jobs", "1"}, {"--jobs", "8"}, {"--jobs", "1", "-f"}, {"--jobs", "8", "-f"}} {
		out := filepath.Join(t.TempDir(), "out")
		require.NoError(t, os.MkdirAll(filepath.Join(out, "up"), 0o700))
		require.NoError(t, os.Symlink("up", filepath.Join(out, "UP")))
		report := filepath.Join(t.TempDir(), "report")
		again := append([]string{"encrypt", "-k", "local:" + key, "--report", report, "-o", out}, flags...)
		_, stderr, _, err := execute(t, append(again, filepath.Join(dir, "in"))...)
		require.Error(t, err, flags)
		require.Contains(t, stderr, fmt.Sprintf("encrypted %d objects", names), flags)
		require.Contains(t, stderr, fmt.Sprintf("%d failed", names), flags)
		require.Contains(t, stderr, "would be lost: both names are one there", flags)
		require.Len(t, entries(filepath.Join(out, "up")), names)
		require.Len(t, entries(out), 2, "a temporary file is left")
		text, err := os.ReadFile(report)
		require.NoError(t, err)
		for lines := json.NewDecoder(bytes.NewReader(text)); lines.More(); { // what was counted is there
			var o work.Outcome
			require.NoError(t, lines.Decode(&o))
			if o.Result != "encrypted" {
				continue
			}
			stdout, stderr, _, err := execute(t, "decrypt", "-k", "local:"+key, filepath.Join(out, "up", filepath.Base(o.Name)))
			require.NoError(t, err, stderr)
			require.Equal(t, filepath.Base(filepath.Dir(o.Name)), stdout)
		}
	}
}

// TestDeletedAndNewObjects deletes an object while a job is interrupted, which counts as done, and
// adds one, which is reported.
func TestDeletedAndNewObjects(t *testing.T) {
	dir, key, _ := newFolder(t, 20)
	journal, report := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "report")
	arguments := []string{"encrypt", "-k", "local:" + key, "--in-place", "--resume", journal, "--report", report, dir}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "odd"), []byte{2, 5, 0x78, 0}, 0o600)) // fails, and the journal stays
	_, stderr, _, err := execute(t, arguments...)
	require.Error(t, err)
	require.Contains(t, stderr, "encrypted 20 objects")
	require.NoError(t, os.Remove(filepath.Join(dir, "odd")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600))
	_, stderr, _, err = execute(t, arguments...)
	require.Error(t, err)
	require.Contains(t, stderr, "going on with the 21 objects that were listed on ")
	require.Contains(t, stderr, "skipped "+filepath.Join(dir, "odd")+": it was deleted after it was listed")
	require.Contains(t, stderr, "1 object came since the objects were listed on ")
	require.NoFileExists(t, journal)
	require.Equal(t, "skipped", resultsOf(t, report)["odd"])
	_, stderr, _, err = execute(t, arguments...)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "encrypted 1 object of 3 bytes, 20 skipped")
}
