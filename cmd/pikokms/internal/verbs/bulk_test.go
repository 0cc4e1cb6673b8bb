package verbs

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"

	"piko.sh/pikokms"
	"piko.sh/pikokms/blobstorage"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/local"
)

// newFolder makes a folder of n files, and a key.
func newFolder(t *testing.T, n int) (dir, key string, contents map[string][]byte) {
	t.Helper()
	dir, key = t.TempDir(), filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(key))
	contents = make(map[string][]byte)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	for i := range n {
		content := make([]byte, 1000+i)
		_, _ = rand.Read(content) // never fails
		content[0] = 'x'          // else one of them may begin as something that is encrypted
		name := fmt.Sprintf("%d", i)
		if i%2 == 1 {
			name = "sub/" + name
		}
		contents[name] = content
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	return dir, key, contents
}

func TestHostsReadWhatEncryptPutsInPlace(t *testing.T) {
	dir, key, contents := newFolder(t, 10)
	_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--in-place", dir)
	require.NoError(t, err, stderr)
	provider, err := local.NewProvider(local.Config{KeyFile: key})
	require.NoError(t, err)
	options := []pikokms.Option{pikokms.WithCryptoProvider("local", provider), pikokms.WithDefaultCryptoProvider("local")}
	folder, err := folderstorage.New(dir)
	require.NoError(t, err)
	defer folder.Close()
	host, err := pikokms.New(append(options, pikokms.WithStorage(folder))...)
	require.NoError(t, err)
	defer host.Close()

	buckets := t.TempDir()
	to := "file://" + buckets + "?no_tmp_dir=true"
	_, stderr, _, err = execute(t, "rewrap", "-k", "local:"+key, "--to", "local:"+key, "-o", to, dir)
	require.NoError(t, err, stderr)
	stored, err := blob.OpenBucket(t.Context(), to)
	require.NoError(t, err)
	bucket, err := blobstorage.Encrypt(stored, options...)
	require.NoError(t, err)
	defer bucket.Close()
	for name, content := range contents {
		r, err := host.Get(t.Context(), name)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, content, got, name)
		got, err = bucket.ReadAll(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, content, got, name)
		a, err := bucket.Attributes(t.Context(), name)
		require.NoError(t, err)
		require.EqualValues(t, len(content), a.Size, name)
	}
}

// TestKilledWorkGoesOn kills work and runs the same command line again. No object is lost,
// half-written or encrypted twice.
func TestKilledWorkGoesOn(t *testing.T) {
	dir, key, contents := newFolder(t, 300)
	newKey := filepath.Join(t.TempDir(), "new.key")
	require.NoError(t, local.Generate(newKey))
	for _, step := range []struct {
		arguments []string
		key       string
	}{
		{[]string{"encrypt", "-k", "local:" + key}, key},
		{[]string{"rewrap", "-k", "local:" + key, "--to", "local:" + newKey, "-k", "local:" + newKey}, newKey},
	} {
		arguments := append(step.arguments, "--in-place", dir)
		killed := 0
		for range 10 {
			command := exec.CommandContext(t.Context(), "pikokms", arguments...)
			require.NoError(t, command.Start())
			time.Sleep(time.Duration(50+mathrand.IntN(150)) * time.Millisecond)
			require.NoError(t, ignoreDone(command.Process.Kill()))
			if command.Wait() != nil {
				killed++
			}
		}
		t.Logf("%s was killed %d times", step.arguments[0], killed)
		_, stderr, _, err := execute(t, arguments...)
		require.NoError(t, err, stderr)
		_, stderr, _, err = execute(t, "verify", "-k", "local:"+step.key, dir)
		require.NoError(t, err, stderr)
		require.Contains(t, stderr, "verified 300 objects of ")
	}
	out := filepath.Join(t.TempDir(), "out")
	_, stderr, _, err := execute(t, "decrypt", "-k", "local:"+newKey, "-o", out, dir)
	require.NoError(t, err, stderr)
	for name, content := range contents {
		got, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), name)
	}
}

func ignoreDone(err error) error {
	if err == os.ErrProcessDone {
		return nil
	}
	return err
}

// TestObjectThatChangesMeanwhileIsLeft checks that an object of S3 stays as another program put it
// while it was encrypted.
func TestObjectThatChangesMeanwhileIsLeft(t *testing.T) {
	server, endpoint := newS3Server(t)
	key := filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(key))
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	url := "s3://bucket/?region=eu-west-1&use_path_style=true&endpoint=" + endpoint
	bucket, err := blob.OpenBucket(t.Context(), url)
	require.NoError(t, err)
	defer bucket.Close()
	require.NoError(t, bucket.WriteAll(t.Context(), "changes", []byte("old"), nil))
	require.NoError(t, bucket.WriteAll(t.Context(), "stays", []byte("same"), nil))
	server.onGet(func(path string) {
		if strings.HasSuffix(path, "/changes") {
			server.objects[path] = s3Object{[]byte("new"), http.Header{"Etag": {`"new"`}}, time.Now()}
		}
	})
	_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--in-place", url)
	require.Error(t, err)
	require.Contains(t, stderr, "failed s3://bucket/changes: object was changed meanwhile")
	require.Contains(t, stderr, "encrypted 1 object of 4 bytes, 1 failed")
	server.onGet(nil)
	content, err := bucket.ReadAll(t.Context(), "changes")
	require.NoError(t, err)
	require.Equal(t, "new", string(content))
}

func TestNamesSteerNoTerminal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names")
	}
	dir, key, _ := newFolder(t, 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "\x1b[31mred"), []byte("x"), 0o600))
	out := filepath.Join(t.TempDir(), "out")
	_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "-o", out, dir)
	require.NoError(t, err, stderr)
	_, stderr, _, err = execute(t, "encrypt", "-k", "local:"+key, "-o", out, dir)
	require.Error(t, err)
	require.Contains(t, stderr, "red")
	require.NotContains(t, stderr, "\x1b")
	for _, command := range []string{"ls", "inspect"} {
		stdout, stderr, _, err := execute(t, command, dir)
		require.NoError(t, err, stderr)
		require.Contains(t, stdout, "red")
		require.NotContains(t, stdout, "\x1b")
	}
}

// TestInterruptedWorkSaysWhatIsDone interrupts a command. It says so, and the same command line
// goes on.
func TestInterruptedWorkSaysWhatIsDone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends no such signals")
	}
	server, key := kmsKey(t)
	dir, _, _ := newFolder(t, 100)
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: kmstest.Delay(time.Second / 2)}) // so that the work does not end before
	var stderr bytes.Buffer
	arguments := []string{"encrypt", "-k", key, "--in-place", "--jobs", "1", dir}
	command := exec.CommandContext(t.Context(), "pikokms", arguments...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true")
	command.Stderr = &stderr
	require.NoError(t, command.Start())
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(filepath.Join(dir, "0"))
		return err == nil && header.Sniff(content)
	}, time.Minute, time.Millisecond)
	require.NoError(t, command.Process.Signal(os.Interrupt))
	require.Error(t, command.Wait())
	require.Contains(t, stderr.String(), "pikokms: finishing the objects that are being worked on; a second signal stops at once\n")
	require.Regexp(t, "\npikokms: interrupted: encrypted [0-9]+ objects? of .*, of 100; the same command line goes on\n$", stderr.String())
	server.Heal()
	_, text, _, err := execute(t, arguments...)
	require.NoError(t, err, text)
	require.Contains(t, text, "skipped")
	_, text, _, err = execute(t, "verify", "-k", key, dir)
	require.NoError(t, err, text)
	require.Contains(t, text, "verified 100 objects of ")
}
