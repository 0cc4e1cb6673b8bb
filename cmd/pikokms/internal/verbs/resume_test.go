package verbs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/local"
)

// killed is work on objects in a folder or a bucket that is killed and resumed.
type killed struct {
	place, elsewhere string // with a slash at its end
	old, renewed     string // KEYs
	objects, size    int
	kills            int
	contents         map[string][]byte
}

// longWorkVariable is the environment variable with the URLs of an S3 and of a KMS, separated by a
// space. With it the test has 10,000 objects of 100 KiB, and ten kills of each command.
const longWorkVariable = "PIKOKMS_TEST_LONG_WORK"

// TestKilledWorkIsResumed kills work at any moment and resumes it. Each object is done once: none
// is lost, half-written or done twice.
func TestKilledWorkIsResumed(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	objects, size, kills := 150, 3000, 2
	endpoints := strings.Fields(os.Getenv(longWorkVariable))
	if len(endpoints) == 2 {
		objects, size, kills = 10_000, 100<<10, 10
	}
	t.Run("folder", func(t *testing.T) {
		dir := t.TempDir()
		k := killed{place: filepath.Join(dir, "in"), elsewhere: filepath.Join(dir, "out"), objects: objects, size: size, kills: kills}
		k.old, k.renewed = "local:"+filepath.Join(dir, "old.key"), "local:"+filepath.Join(dir, "new.key")
		require.NoError(t, local.Generate(filepath.Join(dir, "old.key")))
		require.NoError(t, local.Generate(filepath.Join(dir, "new.key")))
		k.run(t)
	})
	t.Run("S3", func(t *testing.T) {
		k := killed{objects: objects, size: size, kills: kills}
		if len(endpoints) != 2 {
			_, s3 := newS3Server(t)
			server := kmstest.NewServer(t)
			endpoints = []string{s3, server.URL}
			k.old, k.renewed = server.CreateKey(kmstest.Key{}).ARN, server.CreateKey(kmstest.Key{}).ARN
		} else {
			k.old, k.renewed = newKMSKey(t, endpoints[1]), newKMSKey(t, endpoints[1])
		}
		k.old, k.renewed = "awskms:///"+k.old+"?endpoint="+endpoints[1], "awskms:///"+k.renewed+"?endpoint="+endpoints[1]
		url := func(prefix string) string {
			return "s3://bucket-" + strings.ToLower(rand.Text()) + "/" + prefix + "/?region=us-east-1&use_path_style=true&endpoint=" + endpoints[0]
		}
		k.place, k.elsewhere = url("in"), url("out")
		newBucket(t, k.place)
		newBucket(t, k.elsewhere)
		k.run(t)
	})
}

// newKMSKey makes a key in a KMS of another process, and returns its ARN.
func newKMSKey(t *testing.T, endpoint string) string {
	t.Helper()
	client := kms.New(kms.Options{Region: "eu-west-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	require.NoError(t, err)
	return *made.KeyMetadata.Arn
}

// newBucket makes the bucket of a URL.
func newBucket(t *testing.T, place string) {
	t.Helper()
	var client *s3.Client
	require.True(t, bucketOf(t, place).As(&client))
	u, err := neturl.Parse(place)
	require.NoError(t, err)
	_, err = client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &u.Host})
	require.NoError(t, err)
}

func (k *killed) run(t *testing.T) {
	k.contents = make(map[string][]byte)
	for i := range k.objects {
		content := make([]byte, k.size+i%7)
		_, _ = rand.Read(content) // never fails
		content[0] = 'x'          // else one of them may begin as something that is encrypted
		k.contents[fmt.Sprintf("%02d/%05d", i%10, i)] = content
	}
	write := k.writer(t)
	var writing errgroup.Group
	writing.SetLimit(16)
	for name, content := range k.contents {
		writing.Go(func() error { return write(name, content) })
	}
	require.NoError(t, writing.Wait())
	plain := k.versions(t, k.place)
	k.step(t, plain, k.place, "encrypt", "-k", k.old, "--in-place", k.place)
	encrypted := k.versions(t, k.place)
	k.step(t, encrypted, k.place, "rewrap", "-k", k.old, "--to", k.renewed, "--cache-data-keys", "--in-place", k.place)
	k.step(t, nil, k.place, "verify", "-k", k.renewed, "--cache-data-keys", k.place)
	k.step(t, nil, k.elsewhere, "decrypt", "-k", k.renewed, "--cache-data-keys", "-o", k.elsewhere, k.place)
	k.check(t, k.elsewhere)
	rewrapped := k.versions(t, k.place)
	k.step(t, rewrapped, k.place, "decrypt", "-k", k.renewed, "--cache-data-keys", "--in-place", k.place)
	k.check(t, k.place)
}

// step runs a command line, kills it again and again, and resumes it until it is done. first has
// the versions of the objects before the work, or is nil if the target is empty.
func (k *killed) step(t *testing.T, first map[string]string, target string, arguments ...string) {
	t.Helper()
	dir := t.TempDir()
	journal, report := filepath.Join(dir, "journal"), filepath.Join(dir, "report")
	arguments = append(arguments, "--resume", journal, "--report", report)
	verb := arguments[0]
	reads := verb == "verify"
	done := make(map[string]string)
	look := func() {
		if reads {
			return
		}
		now := k.versions(t, target)
		for name, version := range done {
			require.Equal(t, version, now[name], "%s: %s was done twice", verb, name)
		}
		for name, version := range now {
			if version != first[name] {
				done[name] = version
			}
		}
	}
	begin, kills, ended := time.Now(), 0, false
	var stderr string
	for n := 0; n < k.kills && !ended; n++ {
		threshold := (mathrand.IntN(k.objects) + n*k.objects) / (k.kills + 1)
		stderr, ended = k.kill(t, report, threshold, arguments)
		if !ended {
			kills++
		}
		look()
	}
	if !ended {
		var err error
		_, stderr, _, err = execute(t, arguments...)
		require.NoError(t, err, stderr)
		look()
	}
	require.NoFileExists(t, journal, stderr)
	if !reads {
		require.Len(t, done, k.objects)
	}
	k.checkReport(t, report)
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	t.Logf("%s: killed %d times, %v in all; the last run: %s", verb, kills, time.Since(begin).Round(time.Millisecond), lines[len(lines)-1])
}

// kill runs a command line, and kills it once its report has more than n lines. It returns what the
// command wrote, and whether it had ended by then.
func (k *killed) kill(t *testing.T, report string, n int, arguments []string) (said string, ended bool) {
	t.Helper()
	_ = os.Remove(report) // it is of the run before
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "pikokms", arguments...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	require.NoError(t, command.Start())
	end := make(chan error, 1)
	go func() { end <- command.Wait() }()
	for {
		content, _ := os.ReadFile(report)
		if bytes.Count(content, []byte("\n")) > n {
			break
		}
		select {
		case err := <-end:
			require.NoError(t, err, stderr.String())
			return stderr.String(), true
		case <-time.After(time.Millisecond):
		}
	}
	time.Sleep(time.Duration(mathrand.IntN(20)) * time.Millisecond)
	_ = command.Process.Kill()
	err := <-end
	return stderr.String(), err == nil
}

// checkReport checks that a report has a line for each object, and none that failed.
func (k *killed) checkReport(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	names := make(map[string]bool)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var o work.Outcome
		require.NoError(t, json.Unmarshal(lines.Bytes(), &o))
		require.NotEqual(t, work.ResultFailed, o.Result, lines.Text())
		require.False(t, names[o.Name], "%s is reported twice", o.Name)
		names[o.Name] = true
	}
	require.Len(t, names, k.objects)
}

// bucketOf opens a place as a bucket of gocloud.dev.
func bucketOf(t *testing.T, place string) *blob.Bucket {
	t.Helper()
	u, err := neturl.Parse(place)
	require.NoError(t, err)
	prefix := strings.TrimPrefix(u.Path, "/")
	u.Path = ""
	if u.Scheme == "s3" {
		query := u.Query()
		query.Set("response_checksum_validation", "when_required")
		u.RawQuery = query.Encode()
	}
	bucket, err := blob.OpenBucket(t.Context(), u.String())
	require.NoError(t, err)
	if prefix != "" {
		bucket = blob.PrefixedBucket(bucket, prefix)
	}
	t.Cleanup(func() { _ = bucket.Close() })
	return bucket
}

// writer returns a function that stores an object.
func (k *killed) writer(t *testing.T) func(name string, content []byte) error {
	t.Helper()
	if strings.Contains(k.place, "://") {
		bucket := bucketOf(t, k.place)
		return func(name string, content []byte) error { return bucket.WriteAll(t.Context(), name, content, nil) }
	}
	return func(name string, content []byte) error {
		path := filepath.Join(k.place, name)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600))
	}
}

// versions returns a text for each object of a place that changes if the object does.
func (k *killed) versions(t *testing.T, place string) map[string]string {
	t.Helper()
	versions := make(map[string]string)
	if strings.Contains(place, "://") {
		objects := bucketOf(t, place).List(nil)
		for {
			object, err := objects.Next(t.Context())
			if err != nil {
				break
			}
			versions[object.Key] = fmt.Sprintf("%d-%x", object.Size, object.MD5)
		}
		return versions
	}
	err := filepath.WalkDir(place, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) && path == place {
			return nil
		}
		require.NoError(t, err)
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".pikokms-") {
			return nil
		}
		info, err := entry.Info()
		require.NoError(t, err)
		f, err := os.Open(path)
		require.NoError(t, err)
		start := make([]byte, 300) // has the message's ID
		n, err := io.ReadFull(f, start)
		require.NoError(t, errors.Join(err, f.Close()))
		name, err := filepath.Rel(place, path)
		require.NoError(t, err)
		versions[filepath.ToSlash(name)] = fmt.Sprintf("%d-%x", info.Size(), start[:n])
		return nil
	})
	require.NoError(t, err)
	return versions
}

// check checks that a place has the contents.
func (k *killed) check(t *testing.T, place string) {
	t.Helper()
	names := slices.Sorted(maps.Keys(k.versions(t, place)))
	require.Equal(t, slices.Sorted(maps.Keys(k.contents)), names)
	var bucket *blob.Bucket
	if strings.Contains(place, "://") {
		bucket = bucketOf(t, place)
	}
	for name, content := range k.contents {
		var got []byte
		var err error
		if bucket != nil {
			got, err = bucket.ReadAll(t.Context(), name)
		} else {
			got, err = os.ReadFile(filepath.Join(place, name))
		}
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), name)
	}
}
