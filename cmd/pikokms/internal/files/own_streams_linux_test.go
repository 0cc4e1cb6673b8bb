package files_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"piko.sh/pikokms/cmd/pikokms/internal/files"
)

// TestOutputToAnOpenFile writes to /proc/self/fd/N, where N is a file that this process was started
// with. No other value must close it when the garbage collector finds it.
func TestOutputToAnOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
	require.NoError(t, err)
	out, err := files.CreateOutput(t.Context(), fmt.Sprintf("/proc/self/fd/%d", fd), false)
	require.NoError(t, err)
	for range 3 {
		runtime.GC()
		time.Sleep(20 * time.Millisecond) // for finalizers
	}
	_, err = out.Write([]byte("content"))
	require.NoError(t, err)
	require.NoError(t, out.Commit(t.Context()))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "content", string(text))
}
