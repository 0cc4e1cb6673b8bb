package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"piko.sh/pikokms"
	"piko.sh/pikokms/provider/local"
)

// The environment of a process that writes until it is killed.
const (
	writesTo   = "PIKOKMS_CRASH_WRITES_TO"
	versionsAt = "PIKOKMS_CRASH_VERSIONS_AT"
)

const (
	crashWriters = 4
	crashKeys    = 5 // of each writer
)

// Crash kills processes that write to a storage, and checks what each of them left.
type Crash struct {
	Kills int
	Place string                                                  // of the storage, such as a folder
	Open  func(place string) (storage pikokms.Storage, err error) // as a new process opens it
}

// host returns an encrypting host on the storage.
func (c Crash) host() (*pikokms.Host, error) {
	storage, err := c.Open(c.Place)
	if err != nil {
		return nil, err
	}
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		return nil, err
	}
	return pikokms.New(pikokms.WithCryptoProvider("local", p), pikokms.WithDefaultCryptoProvider("local"), pikokms.WithStorage(storage), pikokms.BindObjectName("crash"))
}

// Run kills Kills processes, each of which runs the calling test again. A process puts, replaces,
// rewraps and deletes objects, and reports on its standard output when it begins a change and when
// the change is done. The test fails if a change that was done is missing, or if one that was only
// begun is there in part.
func (c Crash) Run(t *testing.T) {
	t.Helper()
	if place := os.Getenv(writesTo); place != "" {
		c.Place = place
		t.Fatal(c.write()) // write returns only if it fails
	}
	state := make(map[string]change)
	var done, kept int
	begin := time.Now()
	for n := range c.Kills {
		statements, err := c.kill(t.Name(), n)
		if err != nil {
			t.Fatal(err)
		}
		begun := make(map[string]change)
		for _, s := range statements {
			if s.done {
				state[s.key] = s.change
				delete(begun, s.key)
				done++
			} else {
				begun[s.key] = s.change
			}
		}
		found, err := c.versions()
		if err != nil {
			t.Fatalf("after kill %d: %v", n+1, err)
		}
		for key, version := range found {
			if version != state[key].version && version != begun[key].version {
				t.Fatalf("after kill %d: %s has version %d, not %d, nor %d, which was under way", n+1, key, version, state[key].version, begun[key].version)
			}
		}
		for key, want := range state {
			version := found[key] // 0 if there is none
			pending, underWay := begun[key]
			switch {
			case version == want.version:
			case underWay && version == pending.version:
				kept++
			default:
				t.Fatalf("after kill %d: %s is lost: version %d is there, not %d", n+1, key, version, want.version)
			}
		}
		for key := range begun {
			state[key] = change{found[key]}
		}
	}
	t.Logf("%d processes killed in %.0f s, %d changes done and all there; of those under way, %d came to be and the rest did not; no part of any is seen", c.Kills, time.Since(begin).Seconds(), done, kept)
	if done < c.Kills {
		t.Errorf("%d changes of %d processes: they are killed before they write", done, c.Kills)
	}
}

// change is the version that an object gets, or 0 if it is deleted.
type change struct{ version int }

type statement struct {
	key string
	change
	done bool
}

// kill starts a process, kills it at a random moment, and returns what it reported.
func (c Crash) kill(test string, n int) (statements []statement, err error) {
	command := exec.Command(os.Args[0], "-test.run", "^"+test+"$", "-test.timeout", "1m")
	command.Env = append(os.Environ(), writesTo+"="+c.Place, versionsAt+"="+strconv.Itoa((n+1)*1_000_000))
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	var once sync.Once
	for lines.Scan() {
		word := strings.Fields(lines.Text())
		if len(word) != 3 {
			_ = command.Process.Kill()
			return nil, errors.Join(fmt.Errorf("the process said %q", lines.Text()), command.Wait())
		}
		version, err := strconv.Atoi(word[2])
		if err != nil {
			break // the process was killed in the middle of a line
		}
		statements = append(statements, statement{word[1], change{version}, word[0] == "done"})
		if word[0] == "done" {
			once.Do(func() {
				time.AfterFunc(time.Duration(rand.IntN(15_000))*time.Microsecond, func() { _ = command.Process.Kill() })
			})
		}
	}
	if err := command.Wait(); err == nil || command.ProcessState.Exited() {
		return nil, fmt.Errorf("the process ended by itself: %w", err)
	}
	return statements, nil
}

// versions opens the storage, checks that every object in it is whole, and returns their versions.
func (c Crash) versions() (map[string]int, error) {
	host, err := c.host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	found := make(map[string]int)
	for key, err := range host.List(context.Background(), "") {
		if err != nil {
			return nil, err
		}
		version, err := readVersion(host, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		found[key] = version
	}
	return found, nil
}

func readVersion(host *pikokms.Host, key string) (int, error) {
	r, err := host.Get(context.Background(), key)
	if err != nil {
		return 0, err
	}
	content, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	version, err := strconv.Atoi(first)
	if err != nil || !bytes.Equal(content, versionOf(key, version)) {
		return 0, fmt.Errorf("its content was never put")
	}
	return version, nil
}

// versionOf returns the content of an object of this version.
func versionOf(key string, version int) []byte {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", key, version))
	rest := make([]byte, int(seed[0])*int(seed[1])*4) // up to 260 KB
	_, _ = rand.NewChaCha8(seed).Read(rest)           // never fails
	return append(fmt.Appendf(nil, "%d\n", version), rest...)
}

// write changes objects until it is killed.
func (c Crash) write() error {
	host, err := c.host()
	if err != nil {
		return err
	}
	first, err := strconv.Atoi(os.Getenv(versionsAt))
	if err != nil {
		return err
	}
	failures := make(chan error)
	for w := range crashWriters {
		go func() {
			for version := first; ; version++ {
				if err := changeObject(host, fmt.Sprintf("folder/%d/%d", w, rand.IntN(crashKeys)), version); err != nil {
					failures <- err
				}
			}
		}()
	}
	return <-failures
}

func changeObject(host *pikokms.Host, key string, version int) error {
	ctx := context.Background()
	switch rand.IntN(6) {
	case 0: // the object is the same before and after
		if err := host.Rewrap(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case 1:
		report("begin", key, 0)
		if err := host.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		report("done", key, 0)
		return nil
	}
	report("begin", key, version)
	if err := host.Put(ctx, key, bytes.NewReader(versionOf(key, version))); err != nil {
		return err
	}
	report("done", key, version)
	return nil
}

// report prints a line with a single system call, so that lines of several goroutines do not mix.
func report(word, key string, version int) { fmt.Fprintf(os.Stdout, "%s %s %d\n", word, key, version) }
