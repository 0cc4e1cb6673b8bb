//go:build unix

package keyfile

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"piko.sh/pikokms/provider"
)

// checkAccess returns an error if another user has access to a file that only its owner should
// have.
func checkAccess(path string, info fs.FileInfo, secret bool) error {
	mode := info.Mode().Perm()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: key file %s belongs to user %d, who can change it; run chown on it, or copy it", provider.ErrInvalidKey, path, owner.Uid)
	}
	switch {
	case secret && mode == 0o440 && inGroupOf(info):
		return nil
	case secret && mode&0o077 != 0:
		return fmt.Errorf("%w: key file %s has mode %04o, others may use it; run chmod 600 on it", provider.ErrInvalidKey, path, mode)
	case mode&0o022 != 0:
		return fmt.Errorf("%w: key file %s has mode %04o, others can change it; run chmod go-w on it", provider.ErrInvalidKey, path, mode)
	}
	return nil
}

// inGroupOf reports whether the process is in the group of a file.
func inGroupOf(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	groups, _ := os.Getgroups() // without them, there is still the process's own group
	return slices.Contains(append(groups, os.Getegid()), int(owner.Gid))
}
