package provider_test

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

// lockedMemory returns how much memory the process has locked, in KiB.
func lockedMemory(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	size, err := strconv.Atoi(regexp.MustCompile(`VmLck:\s+(\d+) kB`).FindStringSubmatch(string(status))[1])
	require.NoError(t, err)
	return size
}

// A key of its own pages shows what the system does, and a process of its own what is logged, once
// a process.
func TestLockedMemory(t *testing.T) {
	if os.Getenv("PIKOKMS_TEST_LOCKED") == "" {
		command := exec.Command(os.Args[0], "-test.run=^TestLockedMemory$", "-test.v")
		command.Env = append(os.Environ(), "PIKOKMS_TEST_LOCKED=1")
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if regexp.MustCompile(`\d+ KiB are locked`).Match(out) {
			require.NotContains(t, string(out), "can't be locked")
		} else {
			require.Contains(t, string(out), "can't be locked")
		}
		return
	}
	before := lockedMemory(t)
	large, err := provider.NewSecureBytes(make([]byte, 3000))
	require.NoError(t, err)
	if held := lockedMemory(t) - before; held > 0 {
		t.Logf("%d KiB are locked", held)
	}
	require.NoError(t, large.Close())
	require.Equal(t, before, lockedMemory(t))
}
