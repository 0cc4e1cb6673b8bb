package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// openInput opens IN and returns how many bytes are left in it, or -1 where only reading it tells.
func openInput(arguments []string) (*os.File, int64, error) {
	in := os.Stdin
	if len(arguments) > 0 && arguments[0] != "-" {
		f, err := os.Open(arguments[0])
		if err != nil {
			return nil, 0, err
		}
		in = f
	}
	info, err := in.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", in.Name())
	}
	if err != nil {
		return nil, 0, errors.Join(err, in.Close())
	}
	if !info.Mode().IsRegular() {
		return in, -1, nil
	}
	offset, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, errors.Join(err, in.Close())
	}
	return in, max(info.Size()-offset, 0), nil
}

// output is where a result goes: standard output, a device or a pipe, or a file that appears only
// when it is whole.
type output struct {
	*os.File        // if path is not empty, a file that does not have its name yet
	path     string // of the file to make; empty for standard output and devices
	replace  bool
	// detach keeps the end of the context from removing the file. It returns false if the context
	// has ended already.
	detach func() bool
}

func errExists(path string) error {
	return fmt.Errorf("%s exists and is kept; -f replaces it", path)
}

// createOutput opens OUT. When ctx ends, what has not been committed is removed.
func createOutput(ctx context.Context, path string, replace bool) (*output, error) {
	if path == "" || path == "-" {
		return &output{File: os.Stdout}, nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err == nil && !replace { // OUT may be a symbolic link to nothing
			return nil, errExists(path)
		}
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory; -o names a file", path)
	case !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &output{File: f}, err
	case !replace:
		return nil, errExists(path)
	default: // write where symbolic links lead, and keep the links
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	}
	f, err := createUnnamed(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", path, withoutPath(err))
	}
	o := &output{File: f, path: path, replace: replace}
	o.detach = context.AfterFunc(ctx, o.remove)
	return o, nil
}

// withoutPath returns the cause of a file's error, without a temporary name that means nothing to
// the user.
func withoutPath(err error) error {
	if named, ok := errors.AsType[*fs.PathError](err); ok {
		return named.Err
	}
	if named, ok := errors.AsType[*os.LinkError](err); ok {
		return named.Err
	}
	return err
}

// blame says that a write failed because of OUT.
func (o *output) blame(err error) error {
	if err == nil || o.path == "" {
		return err
	}
	return fmt.Errorf("writing %s: %w", o.path, withoutPath(err))
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.File.Write(p)
	return n, o.blame(err)
}

func (o *output) remove() {
	_ = o.Close()
	removeUnnamed(o.Name())
}

// discard ends an output that was not committed. Nothing of a file remains.
func (o *output) discard() {
	if o.path != "" {
		o.detach()
		o.remove()
	}
}

// commit makes a file appear under its name.
func (o *output) commit(ctx context.Context) error {
	if o.path == "" {
		return o.Close()
	}
	if err := o.blame(o.Sync()); err != nil {
		return err
	}
	if !o.detach() {
		return ctx.Err()
	}
	temporary, err := nameUnnamed(o.File)
	if err = errors.Join(err, o.Close()); err != nil {
		return o.blame(err)
	}
	if o.replace {
		return o.place(temporary, os.Rename(temporary, o.path))
	}
	// Unlike a rename, a link never takes the place of a file that has come in the meantime.
	if os.Link(temporary, o.path) == nil {
		return o.place(temporary, os.Remove(temporary))
	}
	if _, err := os.Lstat(o.path); err == nil {
		return o.place(temporary, errExists(o.path))
	}
	// The file system has no hard links.
	return o.place(temporary, os.Rename(temporary, o.path))
}

// place removes what is left of a file that did not get its name.
func (o *output) place(temporary string, err error) error {
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}
