package outfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// KeepOwner gives file the owner, the group and the permissions of old. The error holds
// [fs.ErrPermission] if the system does not let the process keep the owner, but the rest is kept
// even then. If the group can't be kept, the new group gets only rights that everyone has.
func KeepOwner(file *os.File, old fs.FileInfo) error {
	now, err := file.Stat()
	if err != nil {
		return err
	}
	mode := old.Mode().Perm()
	keptGroup, refused := chown(file, now, old)
	if refused != nil && !errors.Is(refused, fs.ErrPermission) {
		return refused
	}
	if !keptGroup {
		mode &= mode<<3 | 0o707
	}
	if now.Mode().Perm() != mode || now.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		if err := file.Chmod(mode); err != nil {
			return errors.Join(refused, fmt.Errorf("keeping the mode %v: %w", mode, err))
		}
	}
	return refused
}
