package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms-batch/internal/oddkeys"
	"piko.sh/pikokms/s3storage"
)

// TestCommandLines runs the command lines for a thousand odd keys in a shell, with printf in the
// place of pikokms. All words must arrive as they are. A reason has the whole line or none of it.
func TestCommandLines(t *testing.T) {
	keyURL := "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab?endpoint=http%3A%2F%2F127.0.0.1%3A1"
	type expected struct {
		key, line string
		words     []string
	}
	var lines []expected
	var without []string
	for i, name := range oddkeys.Some(1000) {
		f := &function{key: &key{url: keyURL}, old: []*key{{url: keyURL + "&old=it's"}}, client: s3.New(s3.Options{Region: "eu-west-1"})}
		job := []string{encrypt, rewrap, verify}[i%3]
		words := map[string][]string{
			encrypt: {"encrypt", "-k", keyURL},
			rewrap:  {"rewrap", "-k", keyURL, "-k", keyURL + "&old=it's", "--to", keyURL},
			verify:  {"verify", "-k", keyURL, "-k", keyURL + "&old=it's"},
		}[job]
		if i%2 == 0 {
			f.bound = "photos's"
			words = append(words, "-c", "piko-bucket=photos's", "-c", "piko-object="+name)
			if job == encrypt {
				words = append(words, "--required", "piko-bucket", "--required", "piko-object")
			}
		}
		if job != verify {
			words = append(words, "--in-place")
		}
		o := &object{function: f, bucket: &bucket{name: "photos"}, Version: &s3storage.Version{Key: name}}
		err := o.adviseFor(job, &tooLargeError{"40.00 GB take 1600 s"})
		line, ok := o.commandLine(job)
		reason := reasonOf(err, task{bucket: "photos", key: url.QueryEscape(name)})
		require.LessOrEqual(t, len(reason), maxReason)
		require.True(t, strings.HasPrefix(reason, "it is too large: 40.00 GB take 1600 s; "), reason)
		if !ok {
			without = append(without, name)
			require.Contains(t, reason, "no command line can name this object")
			continue
		}
		require.Contains(t, err.Error(), "; run "+line, "the log has it whole")
		require.NotContains(t, line, "\n")
		if strings.Contains(reason, "pikokms") {
			require.Equal(t, line, strings.SplitN(reason, "; run ", 2)[1])
		} else {
			require.Contains(t, reason, "log has the command line")
			require.Greater(t, len(line), 700)
		}
		lines = append(lines, expected{name, line, words})
	}
	require.Greater(t, len(lines), 900, "%q have none", without)
	for _, key := range without {
		bad := strings.HasSuffix(key, "/") || strings.HasSuffix(key, "\n") || strings.Contains(key, "\xff")
		require.True(t, bad, "%q has no command line", key)
	}

	dir := t.TempDir()
	var script strings.Builder
	script.WriteString("pikokms() { printf '%s\\0' \"$#\" \"$@\"; }\n")
	for _, l := range lines {
		script.WriteString(l.line + "\n")
	}
	path := filepath.Join(dir, "large.sh")
	require.NoError(t, os.WriteFile(path, []byte(script.String()), 0o600))
	command := exec.Command("sh", path)
	command.Dir = dir
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%.2000s", out)
	got := strings.Split(string(out), "\x00")
	for _, l := range lines {
		require.Equal(t, fmt.Sprint(len(l.words)+1), got[0], l.line)
		require.Equal(t, l.words, got[1:1+len(l.words)], l.line)
		u, err := url.Parse(got[1+len(l.words)])
		require.NoError(t, err)
		require.Equal(t, []string{"s3", "photos", "/" + l.key, "eu-west-1"}, []string{u.Scheme, u.Host, u.Path, u.Query().Get("region")})
		got = got[len(l.words)+2:]
	}
	require.Equal(t, []string{""}, got)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing else was run")
}

// The reason for an object that no command line can name has none.
func TestNoCommandLine(t *testing.T) {
	f := &function{key: &key{url: "awskms:///arn"}, client: s3.New(s3.Options{})}
	o := &object{function: f, bucket: &bucket{name: "photos"}, Version: &s3storage.Version{Key: "folder/"}}
	require.Equal(t, "it is too large: 9 GB; no command line can name this object", reasonOf(o.adviseFor(encrypt, &tooLargeError{"9 GB"}), task{}))
}
