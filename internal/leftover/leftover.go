// Package leftover finds the copies of keys that a process leaves in its memory. It is for tests,
// and for Linux.
//
// The memory is read by another process, since the search itself needs the keys, and would find its
// own copies. The process under observation runs the same test, with a variable in its environment:
//
//	func TestNoKeyStaysInMemory(t *testing.T) {
//		if os.Getenv("OBSERVED") != "" {
//			… // use keys
//			leftover.Tell(t, phase{Name: "closed"})
//			return
//		}
//		p := leftover.Start(t, "TestNoKeyStaysInMemory", "OBSERVED=1")
//		var told phase
//		p.Next(t, &told)
//		found := p.Search(t, leftover.Secrets{"key": key})
//		…
//	}
package leftover

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// erasing reports whether package runtime/secret is built in. It erases memory when Go collects it
// as garbage.
var erasing = strings.Contains(runtime.Version(), "runtimesecret")

// Tell sends phase to the observer, as JSON, and waits until the observer calls GoOn.
func Tell(t testing.TB, phase any) {
	t.Helper()
	if erasing {
		for range 3 {
			runtime.GC()
		}
	}
	require.NoError(t, json.NewEncoder(os.Stdout).Encode(phase))
	_, err := os.Stdin.Read(make([]byte, 1))
	require.NoError(t, err)
}

// Process is a process under observation.
type Process struct {
	command *exec.Cmd
	in      io.Writer
	out     *bufio.Reader
}

// Start starts the test that calls it in a process of its own, with further variables in its
// environment. The process ends with the test.
func Start(t testing.TB, test string, environment ...string) *Process {
	t.Helper()
	p := &Process{command: exec.Command(os.Args[0], "-test.run", "^"+test+"$")}
	p.command.Env = append(os.Environ(), environment...)
	if !erasing {
		// With these, no memory is used again, and Go neither shrinks stacks nor saves registers
		// where it interrupts a goroutine. Each of these would leave or hide copies by chance.
		p.command.Env = append(p.command.Env, "GOGC=off", "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+",asyncpreemptoff=1", ","))
	}
	p.command.Stderr = os.Stderr
	in, err := p.command.StdinPipe()
	require.NoError(t, err)
	out, err := p.command.StdoutPipe()
	require.NoError(t, err)
	p.in, p.out = in, bufio.NewReader(out)
	require.NoError(t, p.command.Start())
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		_ = p.command.Wait() // it was killed
	})
	return p
}

// Next waits until the process calls Tell, and stores what it sent in phase. The process then waits
// for GoOn.
func (p *Process) Next(t testing.TB, phase any) {
	t.Helper()
	line, err := p.out.ReadBytes('\n')
	require.NoError(t, err, "%s", line)
	require.NoError(t, json.Unmarshal(line, phase), "%s", line)
}

// GoOn lets the process go on.
func (p *Process) GoOn(t testing.TB) {
	t.Helper()
	_, err := p.in.Write([]byte{'\n'})
	require.NoError(t, err)
}
