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
	has, ok := now.Sys().(*syscall.Stat_t)
	had, alsoOK := old.Sys().(*syscall.Stat_t)
	if !ok || !alsoOK || has.Uid == had.Uid && has.Gid == had.Gid {
		return true, nil
	}
	err = file.Chown(int(had.Uid), int(had.Gid))
	if err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err == nil, err
	}
	keptGroup = has.Gid == had.Gid || file.Chown(-1, int(had.Gid)) == nil
	if has.Uid == had.Uid {
		return keptGroup, nil
	}
	return keptGroup, fmt.Errorf("its owner is user %d, and only root can keep that: %w", had.Uid, fs.ErrPermission)
}
