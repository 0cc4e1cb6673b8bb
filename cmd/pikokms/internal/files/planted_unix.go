//go:build unix

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// NoFollow makes an open fail for a symbolic link.
const NoFollow = syscall.O_NOFOLLOW

// maxLinks is how many symbolic links of one path are followed, as on Linux.
const maxLinks = 40

// errPlanted means that another user has put something where a result is to go.
var errPlanted = errors.New("another user has put it there, in a folder that everyone can write to; choose another name")

// ResolveOutput follows the symbolic links of an output's path. In folders that everyone can write
// to, such as /tmp, it refuses links and named pipes of other users and, if existing is set, their
// files, as Linux does where fs.protected_symlinks, fs.protected_fifos and fs.protected_regular are
// 1 (proc_sys_fs(5)). Otherwise another user could read the output, or choose a file of this user
// that it overwrites.
func ResolveOutput(path string, existing bool) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if path == "" {
		return path, nil
	}
	resolved, rest, links := "/", strings.Split(absolute[1:], "/"), 0
	for len(rest) > 0 {
		at := filepath.Join(resolved, rest[0])
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			resolved, rest = filepath.Join(append([]string{resolved}, rest...)...), nil // opening it will report what is missing
			continue
		case err != nil:
			return "", err
		case info.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
			}
			if isPlanted(resolved, info) {
				return "", fmt.Errorf("%s is a symbolic link: %w", at, errPlanted)
			}
			target, err := os.Readlink(at)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(target) {
				resolved = "/"
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest[1:]...)
			continue
		case len(rest) > 1:
		case info.Mode().Type() == fs.ModeNamedPipe && isPlanted(resolved, info):
			return "", fmt.Errorf("%s is a named pipe: %w", at, errPlanted)
		case info.Mode().IsRegular() && existing && isPlanted(resolved, info):
			return "", fmt.Errorf("%s is a file: %w", at, errPlanted)
		}
		resolved, rest = at, rest[1:]
	}
	if links == 0 {
		return path, nil // as the user wrote it
	}
	return resolved, nil
}

// isPlanted reports whether another user may have put something into a folder to mislead this one:
// everyone can make files there but only remove their own, and it belongs neither to this user nor
// to the folder's owner.
func isPlanted(dir string, info fs.FileInfo) bool {
	folderInfo, err := os.Stat(dir)
	if err != nil || folderInfo.Mode()&fs.ModeSticky == 0 || folderInfo.Mode().Perm()&0o002 == 0 {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	folder, alsoOK := folderInfo.Sys().(*syscall.Stat_t)
	return ok && alsoOK && int(owner.Uid) != os.Geteuid() && owner.Uid != folder.Uid
}
