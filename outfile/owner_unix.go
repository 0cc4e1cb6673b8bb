//go:build unix

package outfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// chown gives file the owner and the group of old, as far as the system permits. The error says why
// the owner was not kept.
func chown(file *os.File, now, old fs.FileInfo) (keptGroup bool, err error) {
	current, ok := now.Sys().(*syscall.Stat_t)
	previous, alsoOK := old.Sys().(*syscall.Stat_t)
	if !ok || !alsoOK || current.Uid == previous.Uid && current.Gid == previous.Gid {
		return true, nil
	}
	err = file.Chown(int(previous.Uid), int(previous.Gid))
	if err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err == nil, err
	}
	keptGroup = current.Gid == previous.Gid || file.Chown(-1, int(previous.Gid)) == nil
	if current.Uid == previous.Uid {
		return keptGroup, nil
	}
	return keptGroup, fmt.Errorf("its owner is user %d, and only root can keep that: %w", previous.Uid, fs.ErrPermission)
}
