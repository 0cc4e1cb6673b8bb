// Package interop runs programs that use other implementations of the message format, for tests.
package interop

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// Start starts a program, which ends with the test, and adds variables to its environment. Each
// line of the program's input is a request in JSON, which it answers with a line of JSON. The test is
// skipped in short mode, so that what runs then does not depend on what a machine has installed.
func Start[Request, Answer any](t testing.TB, command *exec.Cmd, environment ...string) (ask func(testing.TB, Request) Answer) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: other implementations are not for short mode")
	}
	command.Env = append(os.Environ(), environment...)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, command.Wait())
	})
	answers := bufio.NewReader(out)
	return func(t testing.TB, request Request) (answer Answer) {
		t.Helper()
		require.NoError(t, json.NewEncoder(in).Encode(request))
		line, err := answers.ReadBytes('\n')
		require.NoError(t, err, "the program ended")
		require.NoError(t, json.Unmarshal(line, &answer))
		return answer
	}
}
