package folderstorage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// temporaryPrefix begins the names of files of unfinished Puts.
const temporaryPrefix = ".pikokms-tmp-"

// sweepAge is the age after which sweep removes the file of an unfinished Put, where no lock shows
// whether its writer still runs.
const sweepAge = 24 * time.Hour

func isTemporary(name string) bool { return strings.HasPrefix(name, temporaryPrefix) }

// exclusively calls change while no other Put or Delete changes a name, in this process or another.
func (f *Storage) exclusively(ctx context.Context, change func() error) error {
	select {
	case f.changing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-f.changing }()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		held, err := tryLock(f.lockable)
		if held || err == errNoLocks {
			break
		}
		if err != nil {
			return fmt.Errorf("locking the folder: %w", err)
		}
		select {
		case <-time.After(wait): // polls, since a blocking lock can't be given up when ctx ends
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer unlock(f.lockable)
	return change()
}

// stagingFolder returns the folder in which to write an object before it is renamed to name. That
// is the top one, or the object's own folder if that is on another device. The error holds
// ErrInvalidObjectKey if it is already known that the object can't have this name.
func (f *Storage) stagingFolder(ctx context.Context, name string) (string, error) {
	parts := strings.Split(name, string(filepath.Separator))
	deepest := "."
	for i, part := range parts {
		here := filepath.Join(deepest, part)
		info, err := f.root.Stat(here)
		last := i == len(parts)-1
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The folder of the parts below does not exist yet, so their lengths are tested in the
			// deepest folder that does.
			for _, below := range parts[i:] {
				if _, err := f.root.Lstat(filepath.Join(deepest, below)); errors.Is(err, syscall.ENAMETOOLONG) {
					return "", tooLong(below, err)
				}
			}
			return f.sameDevice(deepest)
		case errors.Is(err, syscall.ENAMETOOLONG):
			return "", tooLong(part, err)
		case err != nil:
			return "", err
		case last && info.IsDir():
			if err := f.exclusively(ctx, func() error { return f.clear(name) }); err != nil {
				return "", err
			}
		case !last && !info.IsDir():
			return "", fmt.Errorf("%w: an object stands at %q, where a folder must be", ErrInvalidObjectKey, filepath.ToSlash(here))
		}
		if !last {
			deepest = here
		}
	}
	return f.sameDevice(deepest)
}

func tooLong(part string, err error) error {
	return fmt.Errorf("%w: the part %.40q… of %d bytes is too long for this file system: %w", ErrInvalidObjectKey, part, len(part), err)
}

// sameDevice returns a folder on the device of dir: the top one if that is on it.
func (f *Storage) sameDevice(dir string) (string, error) {
	top, err := f.root.Stat(".")
	if err != nil {
		return "", err
	}
	own, err := f.root.Stat(dir)
	if err != nil || onOneDevice(top, own) {
		return ".", nil // if dir was removed meanwhile, moveIn makes it again, on the device of the top one
	}
	return dir, nil
}

// errNoLocks means that a file system or a system has no locks of files.
var errNoLocks = errors.New("there are no such locks")

// unplaced is the file of a Put that has not ended. It has a temporary name, or none.
type unplaced struct {
	folder    *Storage
	file      *os.File
	temporary string
}

// createNamed makes a file with a temporary name in dir.
func (f *Storage) createNamed(dir string) (*unplaced, error) {
	for {
		temporary := filepath.Join(dir, temporaryPrefix+rand.Text())
		file, err := f.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		// The lock keeps sweep from removing the file. A sweep that came before the lock may have
		// removed it already.
		held, lockErr := tryLock(file)
		info, err := file.Stat()
		if now, statErr := f.root.Lstat(temporary); err == nil && statErr == nil && os.SameFile(now, info) && (held || lockErr != nil) {
			return &unplaced{f, file, temporary}, nil
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, errors.Join(err, f.removeTemporary(temporary))
		}
	}
}

// discard closes a file and removes its temporary name, if it has one.
func (u *unplaced) discard() error {
	err := u.file.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	if u.temporary != "" {
		err = errors.Join(err, u.folder.removeTemporary(u.temporary))
	}
	return err
}

// removeTemporary removes a file of a temporary name.
func (f *Storage) removeTemporary(name string) error {
	err := f.root.Remove(name)
	// On Windows, not every file system supports the way in which a Root removes a file, nor does
	// Wine.
	if err != nil && runtime.GOOS == "windows" && os.Remove(filepath.Join(f.root.Name(), name)) == nil {
		return nil
	}
	return err
}

// moveIn gives a file its name and makes the folders above it. The caller holds the lock.
func (u *unplaced) moveIn(name string, replace bool) error {
	f := u.folder
	if err := f.clear(name); err != nil {
		return err
	}
	dir := filepath.Dir(name)
	err := f.root.MkdirAll(dir, 0o700)
	if err == nil {
		err = u.name(name, replace)
	}
	if errors.Is(err, syscall.ENOTDIR) {
		err = fmt.Errorf("%w: an object stands where a folder must be: %w", ErrInvalidObjectKey, err)
	}
	if err != nil {
		f.prune(dir)
	}
	return err
}

// rename moves a file from its temporary name to its own.
func (u *unplaced) rename(name string, replace bool) (err error) {
	if runtime.GOOS == "windows" { // which renames no open file
		if err := u.file.Close(); err != nil {
			return err
		}
	}
	if !replace {
		// Unlike a rename, a link never replaces a file that another program has just made.
		if err = u.folder.root.Link(u.temporary, name); err == nil || errors.Is(err, fs.ErrExist) {
			return err // discard removes the temporary name
		}
	}
	if err = u.folder.root.Rename(u.temporary, name); err == nil {
		u.temporary = ""
	}
	return err
}

// clear removes a folder at name that holds nothing but folders. The caller holds the lock.
func (f *Storage) clear(name string) error {
	info, err := f.root.Lstat(name)
	if err != nil || !info.IsDir() {
		return nil // nothing is to be removed; moveIn reports any other fault
	}
	if err := f.removeEmpty(name); err != nil {
		return fmt.Errorf("%w: a folder stands at %q, with something in it: %w", ErrInvalidObjectKey, filepath.ToSlash(name), err)
	}
	return nil
}

func (f *Storage) removeEmpty(dir string) error {
	folder, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	for {
		entries, err := folder.ReadDir(100)
		if err == io.EOF {
			break
		}
		for _, entry := range entries {
			if err == nil && !entry.IsDir() {
				err = fmt.Errorf("%s is no folder", entry.Name())
			}
			if err == nil {
				err = f.removeEmpty(filepath.Join(dir, entry.Name()))
			}
		}
		if err != nil {
			return errors.Join(err, folder.Close())
		}
	}
	if err := folder.Close(); err != nil {
		return err
	}
	return f.root.Remove(dir)
}

// prune removes dir and the folders above it as long as they are empty. The caller holds the lock.
func (f *Storage) prune(dir string) {
	for ; dir != "."; dir = filepath.Dir(dir) {
		info, err := f.root.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !info.IsDir() || f.root.Remove(dir) != nil {
			return // an empty folder that stays does no harm
		}
	}
}

// syncFolders makes a new name durable: it syncs every folder above it that may be new. Windows
// cannot sync folders.
func (f *Storage) syncFolders(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		folder, err := f.root.Open(dir)
		if isNotExist(err) && dir != "." {
			continue // the object was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := errors.Join(syncFile(folder), folder.Close()); err != nil || dir == "." {
			return err
		}
	}
}

// syncFile syncs a file or a folder. It is not an error if the file system does not support that,
// as some network file systems and some in user space do not.
func syncFile(file interface{ Sync() error }) error {
	err := file.Sync()
	for _, unsupported := range [...]error{syscall.EINVAL, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		if errors.Is(err, unsupported) {
			return nil
		}
	}
	return err
}

// sweepTop removes what crashed writers left in the top level.
func (f *Storage) sweepTop() error {
	folder, err := f.root.Open(".")
	if err != nil {
		return err
	}
	for {
		names, err := folder.Readdirnames(1000)
		for _, name := range names {
			if isTemporary(name) {
				f.sweep(name)
			}
		}
		if err != nil {
			return folder.Close() // a folder that can't be listed can still be used
		}
	}
}

// sweep removes the file of an unfinished Put if its writer no longer runs, and reports whether it
// is gone. A file that it cannot remove stays for the next time.
func (f *Storage) sweep(name string) (gone bool) {
	info, err := f.root.Lstat(name)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	if !info.Mode().IsRegular() {
		return false
	}
	file, err := f.root.OpenFile(name, os.O_RDWR|openNonblocking, 0) // some systems give the lock to writers only
	if err != nil {
		return false
	}
	held, err := tryLock(file)
	if err == errNoLocks {
		held = time.Since(info.ModTime()) >= sweepAge
	}
	gone = held && f.removeTemporary(name) == nil
	_ = file.Close()
	return gone
}
