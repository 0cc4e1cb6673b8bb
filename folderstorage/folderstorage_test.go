package folderstorage_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/folderstorage"
)

func TestFolderKeys(t *testing.T) {
	folder, dir := newFolder(t)
	outside := filepath.Join(filepath.Dir(dir), "outside")
	require.NoError(t, os.WriteFile(outside, []byte("not yours"), 0o600))
	for _, key := range []string{"", ".", "..", "../outside", "/etc/passwd", "a/../../outside", "a//b", "a/", "./a", ".pikokms-tmp-x"} {
		require.ErrorIs(t, folder.Put(t.Context(), key, strings.NewReader("x")), folderstorage.ErrInvalidObjectKey, key)
		_, err := folder.Get(t.Context(), key)
		require.ErrorIs(t, err, folderstorage.ErrInvalidObjectKey, key)
		require.ErrorIs(t, folder.Delete(t.Context(), key), folderstorage.ErrInvalidObjectKey, key)
	}
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("x")))
	require.Error(t, folder.Put(t.Context(), "a", strings.NewReader("x")), "a folder stands there")
	_, err := folder.Get(t.Context(), "a")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, folder.Delete(t.Context(), "a"), fs.ErrNotExist)
	require.Equal(t, []string{"a/b"}, keys(t, folder, ""))

	if runtime.GOOS != "windows" { // which lets few users make links
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
		_, err := folder.Get(t.Context(), "link")
		require.Error(t, err, "a link leads out of the folder")
		require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "dir")))
		require.Error(t, folder.Put(t.Context(), "dir/outside", strings.NewReader("x")))
		got, err := os.ReadFile(outside)
		require.NoError(t, err)
		require.Equal(t, "not yours", string(got))
	}
}

func TestFolderList(t *testing.T) {
	folder, dir := newFolder(t)
	for _, key := range []string{"a", "a1/x", "a1/y", "b/c/d", "b/cc"} {
		require.NoError(t, folder.Put(t.Context(), key, strings.NewReader("")))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".pikokms-tmp-crashed"), nil, 0o600))
	for prefix, want := range map[string][]string{
		"":      {"a", "a1/x", "a1/y", "b/c/d", "b/cc"},
		"a":     {"a", "a1/x", "a1/y"},
		"a1/":   {"a1/x", "a1/y"},
		"b/c":   {"b/c/d", "b/cc"},
		"b/c/d": {"b/c/d"},
		"none":  nil,
	} {
		require.Equal(t, want, keys(t, folder, prefix), prefix)
	}
	for range folder.List(t.Context(), "") {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range folder.List(ctx, "") {
		require.ErrorIs(t, err, context.Canceled)
	}
}

func newFolder(t *testing.T) (*folderstorage.Storage, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "objects")
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, folder.Close()) })
	return folder, dir
}

// filesIn lists every file and folder below a folder, whatever its name.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, entry.Name())
		}
		return err
	}))
	return names
}

func get(t *testing.T, s pikokms.Storage, key string) (string, error) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return string(b), err
}

func keys(t *testing.T, s pikokms.Storage, prefix string) []string {
	t.Helper()
	var all []string
	for key, err := range s.List(t.Context(), prefix) {
		require.NoError(t, err)
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func TestFoldersGoWithTheirLastObject(t *testing.T) {
	folder, dir := newFolder(t)
	put := func(key string) { require.NoError(t, folder.Put(t.Context(), key, strings.NewReader(key)), key) }
	put("a/b/c")
	put("a/d")
	require.NoError(t, folder.Delete(t.Context(), "a/b/c"))
	require.ElementsMatch(t, []string{"a", "d"}, filesIn(t, dir))
	require.NoError(t, folder.Delete(t.Context(), "a/d"))
	require.Empty(t, filesIn(t, dir))
	put("a")
	require.ErrorIs(t, folder.Put(t.Context(), "a/b", strings.NewReader("")), folderstorage.ErrInvalidObjectKey)
	require.NoError(t, folder.Delete(t.Context(), "a"))
	put("a/b")
	require.NoError(t, folder.Delete(t.Context(), "a/b"))

	// Empty folders that others made are in nobody's way either.
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "x", "y", "z"), 0o700))
	put("x")
	require.Equal(t, []string{"x"}, keys(t, folder, ""))
}

// One process deletes the last object of a folder while others put into it.
func TestPutIntoAFolderThatIsBeingRemoved(t *testing.T) {
	first, dir := newFolder(t)
	second, err := folderstorage.New(dir)
	require.NoError(t, err)
	defer second.Close()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if err := first.Put(t.Context(), "a/b/gone", strings.NewReader("")); err != nil {
					t.Error(err)
				}
				if err := first.Delete(t.Context(), "a/b/gone"); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 100 {
		require.NoError(t, second.Put(t.Context(), "a/b/c/kept", strings.NewReader("kept")))
		got, err := get(t, second, "a/b/c/kept")
		require.NoError(t, err)
		require.Equal(t, "kept", got)
		require.NoError(t, second.Delete(t.Context(), "a/b/c/kept"))
	}
	close(stop)
	<-done
	require.Empty(t, filesIn(t, dir))
}

// unread fails the test when an upload begins.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the content was read")
	return 0, io.EOF
}

func TestKeysThatCannotBeStoredAreRefusedBeforeTheUpload(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "object", strings.NewReader("")))
	require.NoError(t, folder.Put(t.Context(), "folder/object", strings.NewReader("")))
	before := filesIn(t, dir)
	long := strings.Repeat("x", 300)
	for key, says := range map[string]string{
		long:                      "too long",
		"new/" + long:             "too long",
		"new/" + long + "/deeper": "too long",
		"folder/" + long:          "too long",
		"object/below":            "an object stands at \"object\"",
		"object/below/deeper":     "an object stands at \"object\"",
		"folder":                  "a folder stands at \"folder\"",
		"folder/.pikokms-tmp-x":   "invalid object key",
		"a\x00b":                  "invalid object key",
		"a/../\xff":               `"a/../\xff" is not UTF-8`,
	} {
		err := folder.Put(t.Context(), key, unread{t})
		require.ErrorIs(t, err, folderstorage.ErrInvalidObjectKey, key)
		require.ErrorContains(t, err, says, key)
	}
	require.Equal(t, before, filesIn(t, dir))
}

func TestWhatIsNotThereDoesNotExist(t *testing.T) {
	folder, _ := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "object", strings.NewReader("")))
	require.NoError(t, folder.Put(t.Context(), "folder/object", strings.NewReader("")))
	for _, key := range []string{"none", "none/deeper", "object/below", "folder", strings.Repeat("x", 300), "", "../x", "a//b", "folder/.pikokms-tmp-x"} {
		_, err := folder.Get(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrNotExist, key)
		_, _, err = folder.GetVersion(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrNotExist, key)
		_, err = folder.Open(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrNotExist, key)
		require.ErrorIs(t, folder.Delete(t.Context(), key), fs.ErrNotExist, key)
	}
}

func TestPutIfKeepsWhatOthersPut(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("1")))
	r, version, err := folder.GetVersion(t.Context(), "a/b")
	require.NoError(t, err)
	require.NoError(t, folder.PutIf(t.Context(), "a/b", version, strings.NewReader("2")))
	require.ErrorIs(t, folder.PutIf(t.Context(), "a/b", version, strings.NewReader("3")), pikokms.ErrChanged)
	require.NoError(t, r.Close())
	require.NoError(t, r.Close(), "a second Close")
	got, err := get(t, folder, "a/b")
	require.NoError(t, err)
	require.Equal(t, "2", got)

	r, version, err = folder.GetVersion(t.Context(), "a/b")
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, folder.Delete(t.Context(), "a/b"))
	require.ErrorIs(t, folder.PutIf(t.Context(), "a/b", version, strings.NewReader("3")), pikokms.ErrChanged)
	require.Empty(t, filesIn(t, dir))
	// An equal object in its place is another one, at an equal time too.
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("2")))
	info, err := r.(interface{ Stat() (fs.FileInfo, error) }).Stat()
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a", "b"), info.ModTime(), info.ModTime()))
	if runtime.GOOS != "windows" {
		require.ErrorIs(t, folder.PutIf(t.Context(), "a/b", version, strings.NewReader("3")), pikokms.ErrChanged)
	}
}

// What a writer that crashed left is removed when it is old; what a writer is at is not.
func TestLeftoversOfACrashAreSwept(t *testing.T) {
	folder, dir := newFolder(t)
	require.NoError(t, folder.Put(t.Context(), "a/b", strings.NewReader("")))
	leave := func(name string, age time.Duration) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
		when := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(path, when, when))
	}
	leave(".pikokms-tmp-old", 48*time.Hour)
	leave(".pikokms-tmp-new", time.Hour)
	leave("a/.pikokms-tmp-old", 48*time.Hour)

	// A writer that waits for its source for two days.
	reading, write := io.Pipe()
	finished := make(chan error)
	go func() { finished <- folder.Put(t.Context(), "slow", reading) }()
	_, err := write.Write([]byte("the first half"))
	require.NoError(t, err)
	for _, name := range filesIn(t, dir) {
		if strings.HasPrefix(name, ".pikokms-tmp-") && name != ".pikokms-tmp-old" && name != ".pikokms-tmp-new" {
			when := time.Now().Add(-48 * time.Hour)
			require.NoError(t, os.Chtimes(filepath.Join(dir, name), when, when))
		}
	}

	again, err := folderstorage.New(dir)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	require.NoFileExists(t, filepath.Join(dir, ".pikokms-tmp-old"))
	if hasLocks {
		require.NoFileExists(t, filepath.Join(dir, ".pikokms-tmp-new"))
	} else {
		require.FileExists(t, filepath.Join(dir, ".pikokms-tmp-new"))
	}
	require.Equal(t, []string{"a/b"}, keys(t, folder, ""))
	require.NoFileExists(t, filepath.Join(dir, "a", ".pikokms-tmp-old"))

	_, err = write.Write([]byte(" and the second"))
	require.NoError(t, err)
	require.NoError(t, write.Close())
	require.NoError(t, <-finished)
	got, err := get(t, folder, "slow")
	require.NoError(t, err)
	require.Equal(t, "the first half and the second", got)
}
