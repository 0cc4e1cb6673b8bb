package verbs

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/local"
)

// programs has the programs that tests start in processes of their own.
var programs = map[string]func(){"pikokms": func() {
	for _, variable := range []string{"PIKOKMS_PYTHON", "PIKOKMS_REQUIRE_DOCKER", "PIKOKMS_OPENBAO", "PIKOKMS_LOCALSTACK_URL",
		"PIKOKMS_ENCRYPTION_CLI", "PIKOKMS_NODE_MODULES", "PIKOKMS_AZURE_URL", "PIKOKMS_GCS_URL", "PIKOKMS_JARS",
		"PIKOKMS_TEST_MILLION", "PIKOKMS_TEST_LONG_WORK", "PIKOKMS_TEST_JOURNAL"} {
		_ = os.Unsetenv(variable) // tests use it, and the command refuses unknown variables
	}
	Main()
}}

// TestMain takes what the machine is configured with out of the way. The programs keep what the
// tests give them.
func TestMain(m *testing.M) {
	if _, isProgram := programs[filepath.Base(os.Args[0])]; !isProgram {
		for _, variable := range os.Environ() {
			name, _, _ := strings.Cut(variable, "=")
			if name == "PIKOKMS_KEY" || name != "AWS_CA_BUNDLE" && slices.ContainsFunc([]string{"AWS_", "VAULT_", "BAO_", "OTEL_"}, func(prefix string) bool {
				return strings.HasPrefix(name, prefix)
			}) {
				_ = os.Unsetenv(name)
			}
		}
	}
	testscript.Main(m, programs)
}

// A program under the race detector otherwise sleeps for a second before it exits.
const noRaceSleep = "atexit_sleep_ms=0"

func TestScripts(t *testing.T) {
	kms := kmstest.NewServer(t)
	kms.CreateKey(kmstest.Key{Alias: "alias/backups", Region: "eu-west-1"})
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	require.NoError(t, err)
	if race.Enabled && testing.Short() { // Each program takes long to start, and most of them do one thing.
		scripts = slices.DeleteFunc(scripts, func(path string) bool {
			return !slices.Contains([]string{"folders.txtar", "long.txtar", "recipients.txtar", "roundtrip.txtar", "s3.txtar"}, filepath.Base(path))
		})
	}
	testscript.Run(t, testscript.Params{
		Files:               scripts,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv(keys.Variable, "")
			env.Setenv("GORACE", noRaceSleep)
			_, s3 := newS3Server(t)
			env.Setenv("AWS_ENDPOINT_URL_S3", s3)
			env.Setenv("AWS_ENDPOINT_URL_KMS", kms.URL)
			env.Setenv("AWS_ACCESS_KEY_ID", "test")
			env.Setenv("AWS_SECRET_ACCESS_KEY", "test")
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			root, err := filepath.Abs(filepath.Join("..", "..", "..", ".."))
			if err != nil {
				return err
			}
			env.Setenv("ROOT", root)
			return local.Generate(filepath.Join(env.WorkDir, "dev.key"))
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"fails":  fails,
			"random": random,
			"cut":    cut,
			"slice":  slice,
			"bytes":  bytesOf,
			"flip":   flip,
			"holds":  holds,
			"upload": upload,
			"stored": stored,
			"mode":   mode,
			"age":    age,
		},
	})
}

// fails STATUS program args... runs a program that must exit with that status.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails STATUS program [args...]")
	}
	exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...))
	if !ok || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("exit status is not %s: %v", args[0], exit)
	}
}

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}

// random FILE SIZE makes a file of that many random bytes, which do not begin as a message does.
func random(ts *testscript.TestScript, _ bool, args []string) {
	b := make([]byte, number(ts, args[1]))
	for i := range b {
		b[i] = byte(rand.Int())
	}
	if len(b) > 0 {
		b[0] |= 0x80
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o666))
}

// cut FROM TO BYTES copies a file without its last bytes.
func cut(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b[:len(b)-number(ts, args[2])]), 0o666))
}

// bytes FILE HEX makes a file of these bytes.
func bytesOf(ts *testscript.TestScript, _ bool, args []string) {
	b, err := hex.DecodeString(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o666))
}

// slice FROM TO BEGIN END copies a part of a file.
func slice(ts *testscript.TestScript, _ bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b[number(ts, args[2]):number(ts, args[3])], 0o666))
}

// flip FROM TO OFFSET copies a file with one bit changed; a negative offset counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	b, offset := []byte(ts.ReadFile(args[0])), number(ts, args[2])
	if offset < 0 {
		offset += len(b)
	}
	b[offset] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o666))
}

// upload FILE PATH [NAME=VALUE...] puts a file into the bucket and under the key of /BUCKET/KEY,
// with these headers.
func upload(ts *testscript.TestScript, _ bool, args []string) {
	request, err := http.NewRequest(http.MethodPut, ts.Getenv("AWS_ENDPOINT_URL_S3")+args[1], strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	for _, header := range args[2:] {
		name, value, _ := strings.Cut(header, "=")
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	ts.Check(err)
	ts.Check(response.Body.Close())
	if response.StatusCode != http.StatusOK {
		ts.Fatalf("upload: %s", response.Status)
	}
}

// stored PATH NAME=VALUE... checks headers of an object in S3.
func stored(ts *testscript.TestScript, _ bool, args []string) {
	response, err := http.Head(ts.Getenv("AWS_ENDPOINT_URL_S3") + args[0])
	ts.Check(err)
	ts.Check(response.Body.Close())
	for _, header := range args[1:] {
		name, value, _ := strings.Cut(header, "=")
		if got := response.Header.Get(name); got != value {
			ts.Fatalf("%s of %s is %q, not %q", name, args[0], got, value)
		}
	}
}

// holds DIRECTORY [NAME...] checks that a directory has these entries and no other.
func holds(ts *testscript.TestScript, _ bool, args []string) {
	if got := entries(ts.MkAbs(args[0])); !slices.Equal(got, args[1:]) {
		ts.Fatalf("%s holds %q, not %q", args[0], got, args[1:])
	}
}

func entries(dir string) []string {
	files, _ := os.ReadDir(dir)
	names := []string{}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// mode FILE PERMISSIONS checks a file's permissions, in octal.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := strconv.FormatInt(int64(info.Mode().Perm()), 8); got != args[1] && runtime.GOOS != "windows" {
		ts.Fatalf("%s has mode %s, not %s", args[0], got, args[1])
	}
}

// age DIRECTORY makes the files of a directory an hour older.
func age(ts *testscript.TestScript, _ bool, args []string) {
	past := time.Now().Add(-time.Hour)
	for _, name := range entries(ts.MkAbs(args[0])) {
		ts.Check(os.Chtimes(filepath.Join(ts.MkAbs(args[0]), name), past, past))
	}
}

// start runs the command in a new folder that has a key and an empty folder "out". It returns the
// command's standard input.
func start(t *testing.T, stderr *os.File, arguments ...string) (command *exec.Cmd, stdin io.WriteCloser, out string) {
	t.Helper()
	dir := t.TempDir()
	out = filepath.Join(dir, "out")
	key := filepath.Join(dir, "key")
	if err := errors.Join(os.Mkdir(out, 0o777), local.Generate(key)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	command = exec.CommandContext(ctx, "pikokms", append(arguments, "-k", "local:key")...)
	command.Dir = dir
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep)
	command.Stderr = &bytes.Buffer{}
	if stderr != nil {
		command.Stderr = stderr
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command, stdin, out
}

// feed gives a command more than a pipe holds, so that it is at work when feed returns.
func feed(t *testing.T, stdin io.Writer, n int) {
	t.Helper()
	if _, err := stdin.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func TestSignalLeavesNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends no such signals")
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		command, stdin, out := start(t, nil, "encrypt", "-o", "out/file")
		defer stdin.Close()
		feed(t, stdin, 1<<20)
		if err := command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		if code := command.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%v: exit status %d", signal, code)
		}
		if got := command.Stderr.(*bytes.Buffer).String(); got != "pikokms: interrupted\n" {
			t.Errorf("%v: standard error is %q", signal, got)
		}
		if names := entries(out); len(names) != 0 {
			t.Errorf("%v: left behind %q", signal, names)
		}
	}
}

func TestFileThatComesMeanwhileIsKept(t *testing.T) {
	command, stdin, out := start(t, nil, "encrypt", "-o", "out/file")
	feed(t, stdin, 1<<20)
	if err := os.WriteFile(filepath.Join(out, "file"), []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if got := command.Stderr.(*bytes.Buffer).String(); got != "pikokms: out/file exists and is kept; -f replaces it\n" {
		t.Errorf("standard error is %q", got)
	}
	content, _ := os.ReadFile(filepath.Join(out, "file"))
	if names := entries(out); len(names) != 1 || string(content) != "mine" {
		t.Errorf("the folder holds %q, the file %q", names, content)
	}
}

func TestProgress(t *testing.T) {
	for _, long := range []bool{true, false} {
		t.Run(map[bool]string{true: "long work", false: "short work"}[long], func(t *testing.T) {
			t.Parallel()
			terminal, tty, err := pty.Open()
			if err != nil {
				t.Skip("no pseudo-terminal: ", err)
			}
			defer terminal.Close()
			begin := time.Now()
			command, stdin, _ := start(t, tty, "encrypt", "-o", "out/file")
			tty.Close()
			drawn, screen := watch(terminal, "3.0 MiB")
			feed(t, stdin, 3<<20)
			if long {
				<-drawn
			}
			stdin.Close()
			if err := command.Wait(); err != nil {
				t.Fatal(err)
			}
			took, got := time.Since(begin), <-screen
			if !long && got != "" && took < time.Second/2 {
				t.Errorf("work of %v drew %q", took, got)
			}
			if long && (!strings.Contains(got, "encrypting") || !strings.HasSuffix(got, "\x1b[2K\r")) {
				t.Errorf("the terminal got %q", got)
			}
		})
	}
}

// watch reads what processes write to a terminal. It closes seen when the text was written, or when
// the last process has closed its side. Screen receives all that was written.
func watch(terminal io.Reader, text string) (seen <-chan struct{}, screen <-chan string) {
	found, all := make(chan struct{}), make(chan string, 1)
	go func() {
		var got []byte
		tell := sync.OnceFunc(func() { close(found) })
		defer func() { tell(); all <- string(got) }()
		for piece := make([]byte, 1000); ; {
			n, err := terminal.Read(piece)
			if got = append(got, piece[:n]...); bytes.Contains(got, []byte(text)) {
				tell()
			}
			if err != nil {
				return
			}
		}
	}()
	return found, all
}

// startsManyProcesses skips a test in short mode, and under the race detector, which makes each
// process of the command several times as slow.
func startsManyProcesses(t *testing.T) {
	t.Helper()
	if race.Enabled || testing.Short() {
		t.Skip("skipped: it starts many processes, and runs without -short and the race detector")
	}
}
