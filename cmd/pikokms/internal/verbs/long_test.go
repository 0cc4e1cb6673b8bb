package verbs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider/local"
)

// kmsKey is a KEY of a server in this process.
func kmsKey(t *testing.T) (server *kmstest.Server, key string) {
	t.Helper()
	server = kmstest.NewServer(t)
	return server, "awskms:///" + server.CreateKey(kmstest.Key{}).ARN + "?endpoint=" + server.URL
}

// TestWhatPassesIsTriedAgain checks that throttling and faults that pass do no object harm.
func TestWhatPassesIsTriedAgain(t *testing.T) {
	t.Parallel()
	server, key := kmsKey(t)
	dir, _, _ := newFolder(t, 3)
	// The AWS SDK makes four attempts of each of our tries.
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", After: 1, Times: 8, Do: kmstest.Throttle()})
	_, stderr, _, err := execute(t, "encrypt", "-k", key, "--in-place", dir)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "encrypted 3 objects of ")

	s3, endpoint := newS3Server(t)
	url := "s3://bucket/?region=eu-west-1&use_path_style=true&endpoint=" + endpoint
	left := 5
	s3.onRequest(func(r *http.Request) int {
		if r.Method != http.MethodPut || left == 0 {
			return 0
		}
		left--
		return http.StatusServiceUnavailable
	})
	_, stderr, _, err = execute(t, "decrypt", "-k", key, "-o", url, dir)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "decrypted 3 objects of ")
	require.Zero(t, left)
}

// TestAServiceThatStaysAwayEndsTheWork checks that a service that stays away ends the work.
// Otherwise the rest would be tried for hours.
func TestAServiceThatStaysAwayEndsTheWork(t *testing.T) {
	t.Parallel()
	server, key := kmsKey(t)
	dir, _, _ := newFolder(t, 300)
	journal := filepath.Join(t.TempDir(), "job")
	arguments := []string{"encrypt", "-k", key, "--in-place", "--jobs", "40", "--resume", journal, dir}
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: kmstest.Error("KMSInternalException", "an internal error")})
	_, stderr, _, err := execute(t, arguments...)
	require.Error(t, err)
	require.Regexp(t, `encrypted 0 objects of 0 bytes, (?:[2-9][0-9]|1[0-9][0-9]) failed, .* of 300; stopped after 20 failures in a row that may pass; the same command line goes on\n$`, stderr)
	server.Heal()
	_, stderr, _, err = execute(t, arguments...)
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "encrypted 300 objects of ")
}

// TestTheRateOfCallsIsBounded checks that --kms-rate holds over all jobs together.
func TestTheRateOfCallsIsBounded(t *testing.T) {
	t.Parallel()
	_, key := kmsKey(t)
	dir, _, _ := newFolder(t, 11)
	_, stderr, took, err := execute(t, "encrypt", "-k", key, "--in-place", "--kms-rate", "10", dir)
	require.NoError(t, err, stderr)
	require.GreaterOrEqual(t, took, time.Second)
}

// TestTheRateCountsRetries checks that each request counts, including the retries of a call.
func TestTheRateCountsRetries(t *testing.T) {
	t.Parallel()
	server, key := kmsKey(t)
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Times: 8, Do: kmstest.Error("KMSInternalException", "a fault")})
	dir, _, _ := newFolder(t, 8)
	begin := time.Now()
	_, stderr, _, err := execute(t, "encrypt", "-k", key, "--in-place", "--jobs", "8", "--kms-rate", "8", dir)
	require.NoError(t, err, stderr)
	calls := server.Calls("GenerateDataKey")
	require.GreaterOrEqual(t, calls, 16)
	require.GreaterOrEqual(t, time.Since(begin), time.Duration(calls-8)*time.Second/8, "%d requests", calls)
}

// TestASecondSignalStopsAtOnce checks that objects that are being worked on are finished after the
// first signal, and not after the second.
func TestASecondSignalStopsAtOnce(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends no such signals")
	}
	server, key := kmsKey(t)
	dir, _, _ := newFolder(t, 20)
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", After: 3, Do: kmstest.Stall()})
	arguments := []string{"encrypt", "-k", key, "--in-place", "--jobs", "1", "--resume", filepath.Join(t.TempDir(), "job"), dir}
	command := exec.CommandContext(t.Context(), "pikokms", arguments...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
	stderr, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	require.Eventually(t, func() bool { return server.Calls("GenerateDataKey") > 3 }, time.Minute, time.Millisecond)
	require.NoError(t, command.Process.Signal(os.Interrupt))
	var said bytes.Buffer
	one := make([]byte, 1)
	for !strings.Contains(said.String(), "a second signal stops at once\n") {
		_, err := stderr.Read(one)
		require.NoError(t, err, said.String())
		said.Write(one)
	}
	require.NoError(t, command.Process.Signal(os.Interrupt))
	begin := time.Now()
	rest, err := io.ReadAll(stderr)
	require.NoError(t, err)
	require.Error(t, command.Wait())
	require.Less(t, time.Since(begin), keys.DefaultTimeout)
	require.Equal(t, 1, command.ProcessState.ExitCode())
	require.Contains(t, string(rest), "pikokms: interrupted\n")

	server.Heal()
	_, text, _, err := execute(t, arguments...)
	require.NoError(t, err, text)
	_, text, _, err = execute(t, "verify", "-k", key, dir)
	require.NoError(t, err, text)
	require.Contains(t, text, "verified 20 objects of ")
}

// TestAJournalIsOfOneProcess checks that only one process at a time works with a journal.
func TestAJournalIsOfOneProcess(t *testing.T) {
	t.Parallel()
	dir, key, _ := newFolder(t, 2)
	path := filepath.Join(t.TempDir(), "job")
	j, err := work.OpenJournal(path, work.NewJournaledJob("encrypt x", nil))
	require.NoError(t, err)
	_, stderr, _, err := execute(t, "encrypt", "-k", "local:"+key, "--in-place", "--resume", path, dir)
	require.Error(t, err)
	require.Contains(t, stderr, "another process works with it")
	require.NoError(t, j.Close(true))
	require.NoFileExists(t, path)
}

// TestAJournalHoldsNoSecret checks that a journal holds no key, and nothing secret of a KEY's URL.
func TestAJournalHoldsNoSecret(t *testing.T) {
	t.Parallel()
	server, key := kmsKey(t)
	dir, _, contents := newFolder(t, 5)
	path := filepath.Join(t.TempDir(), "job")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zz"), []byte{2, 0, 0, 0, 0, 0x10, 0x7b, 0x7d}, 0o600)) // fails
	_, stderr, _, err := execute(t, "encrypt", "-k", key+"&grant-tokens=secrettoken", "--in-place", "--resume", path, dir)
	require.Error(t, err)
	require.Contains(t, stderr, "1 failed")
	journal, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(journal), "secrettoken")
	for name, content := range contents {
		require.NotContains(t, string(journal), string(content[:16]), name)
	}
	require.Contains(t, string(journal), "zz")
	// The next run has another token.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zz"), []byte("plain"), 0o600))
	_, stderr, _, err = execute(t, "encrypt", "-k", key+"&grant-tokens=another", "--in-place", "--resume", path, dir)
	require.NoError(t, err, stderr)
	require.Equal(t, 6, server.Calls("GenerateDataKey"))
}

// TestFileThatChangesMeanwhileIsLeft checks that a file stays as another program put it while it
// was worked on in place.
func TestFileThatChangesMeanwhileIsLeft(t *testing.T) {
	server, key := kmsKey(t)
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	for _, arguments := range [][]string{{"encrypt", "--in-place"}, {"decrypt", "--in-place"}, {"rewrap", "--to", key, "--in-place"}} {
		arguments = append(arguments, "-k", key, path)
		if arguments[0] != "encrypt" {
			_, stderr, _, err := execute(t, "encrypt", "-k", key, "--in-place", path)
			require.NoError(t, err, stderr)
		}
		if arguments[0] == "rewrap" {
			arguments[2] = "awskms:///" + server.CreateKey(kmstest.Key{}).ARN + "?endpoint=" + server.URL
		}
		remove := server.Inject(kmstest.Fault{When: func(r kmstest.Request) bool {
			if r.Operation == "GenerateDataKey" || r.Operation == "Decrypt" {
				_ = os.WriteFile(path, []byte("new content"), 0o600)
			}
			return false
		}, Do: kmstest.Deny()})
		_, stderr, _, err := execute(t, arguments...)
		remove()
		require.Error(t, err, arguments)
		require.Contains(t, stderr, "failed ", arguments)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "new content", string(content), arguments)
	}
}

// TestProgressOfSeveralObjects checks that work on several objects has a bar on a terminal, and
// that lines about objects don't garble it.
func TestProgressOfSeveralObjects(t *testing.T) {
	t.Parallel()
	server, key := kmsKey(t)
	dir, _, _ := newFolder(t, 12)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zz"), []byte{2, 0, 0, 0, 0, 0x10, 0x7b, 0x7d}, 0o600)) // fails
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo-terminal: ", err)
	}
	defer terminal.Close()
	require.NotEmpty(t, server.URL)
	command := exec.CommandContext(t.Context(), "pikokms", "encrypt", "-k", key, "--in-place", "--kms-rate", "8", dir)
	command.Stderr, command.Env = tty, append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test")
	require.NoError(t, command.Start())
	tty.Close()
	screen, _ := io.ReadAll(terminal) // ends with an error when the last process closes its side
	require.Error(t, command.Wait())
	require.Regexp(t, `encrypted [0-9]+ of 13 .*%.*kiB/s`, strings.ReplaceAll(string(screen), "KiB", "kiB"))
	require.Contains(t, string(screen), "\x1b[2K\rpikokms: failed ")
	require.Contains(t, string(screen), "pikokms: encrypted 12 objects of ")
}

// millionVariable is the environment variable that turns TestAMillionObjects on.
const millionVariable = "PIKOKMS_TEST_MILLION"

// TestAMillionObjects lists and plans a million objects in under 200 MiB of memory.
func TestAMillionObjects(t *testing.T) {
	race.SkipShort(t)
	n := 5_000
	if os.Getenv(millionVariable) != "" {
		n = 1_000_000
	}
	key := filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(key))
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	for name, place := range map[string]func(t *testing.T) string{
		"S3": func(t *testing.T) string {
			s3, endpoint := newS3Server(t)
			s3.many(n, []byte("plain"))
			return "s3://bucket/?region=eu-west-1&use_path_style=true&endpoint=" + endpoint
		},
		"one folder":   func(t *testing.T) string { return manyFiles(t, n, n) },
		"many folders": func(t *testing.T) string { return manyFiles(t, n, 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			arguments := []string{"encrypt", "-k", "local:" + key, "--dry-run", "--in-place", place(t)}
			if name == "S3" { // to look at each object takes two requests
				arguments[3] = "--resume=" + filepath.Join(t.TempDir(), "job")
			}
			command := exec.CommandContext(t.Context(), "pikokms", arguments...)
			command.Env = append(os.Environ(), "GORACE="+noRaceSleep)
			stderr, err := command.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, command.Start())
			said := bufio.NewReader(stderr)
			found, err := said.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("pikokms: found %d objects of %d bytes\n", n, 5*n), found)
			peak := peakOf(command.Process.Pid)
			if name == "S3" {
				require.NoError(t, command.Process.Kill())
				_ = command.Wait()
			} else {
				end := make(chan struct{})
				var sampling sync.WaitGroup
				sampling.Go(func() {
					for tick := time.Tick(20 * time.Millisecond); ; {
						select {
						case <-end:
							return
						case <-tick:
							peak = max(peak, peakOf(command.Process.Pid))
						}
					}
				})
				rest, err := io.ReadAll(said)
				close(end)
				sampling.Wait()
				require.NoError(t, err)
				require.NoError(t, command.Wait(), string(rest))
				require.Contains(t, string(rest), fmt.Sprintf("planned %d objects of %d bytes", n, 5*n))
			}
			t.Logf("%d objects: at most %d MiB of memory, %v of processor", n, peak>>20, command.ProcessState.UserTime()+command.ProcessState.SystemTime())
			require.Less(t, peak, 200<<20)
		})
	}
}

// peakOf returns the most resident memory, in bytes, that a running process has had, or 0 if that
// is not known. The system's figure for a process that has ended includes the memory of this one,
// which started it.
func peakOf(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes := 0
	_, _ = fmt.Sscan(rest, &kilobytes) // stays 0
	return kilobytes << 10
}

// manyFiles makes a folder of n files of 5 bytes, in folders of so many files each.
func manyFiles(t *testing.T, n, each int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		below := filepath.Join(dir, fmt.Sprint(i/each))
		if i%each == 0 {
			require.NoError(t, os.Mkdir(below, 0o700))
		}
		require.NoError(t, os.WriteFile(filepath.Join(below, fmt.Sprintf("%08d.parquet", i)), []byte("plain"), 0o600))
	}
	return dir
}
