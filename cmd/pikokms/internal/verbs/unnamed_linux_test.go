package verbs

import (
	"testing"

	"golang.org/x/sys/unix"

	"piko.sh/pikokms/internal/race"
)

// TestKillLeavesNoPlaintext kills the command while it writes. Only Linux has files without a name;
// elsewhere the next run sweeps what is left.
func TestKillLeavesNoPlaintext(t *testing.T) {
	race.SkipShort(t)
	command, stdin, out := start(t, nil, "encrypt", "-o", "out/file")
	defer stdin.Close()
	feed(t, stdin, 1<<20)
	fd, err := unix.Open(out, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Skip("this file system has only files with a name")
	}
	_ = unix.Close(fd)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	if names := entries(out); len(names) != 0 {
		t.Errorf("left behind %q", names)
	}
}
