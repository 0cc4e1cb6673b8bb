//go:build unix

package command

import (
	"os"
	"runtime"
	"syscall"
)

// peak returns the most memory in bytes that a process had resident.
func peak(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return int64(usage.Maxrss) // in bytes there
	}
	return int64(usage.Maxrss) << 10
}
