package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// openInput opens IN and returns how many bytes it has from here, or -1 when only reading it will tell.
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

// output is where a result goes: standard output, a device or a pipe, or a file that appears only when it is whole.
type output struct {
	*os.File        // a temporary file beside path, if there is a path
	path     string // of the file to make
	replace  bool
	detach   func() bool // frees the file from the context, whose end removes it; false if it has ended
}

func errExists(path string) error {
	return fmt.Errorf("%s exists and is kept; -f replaces it", path)
}

// createOutput opens OUT. The end of ctx removes what has not been committed.
func createOutput(ctx context.Context, path string, replace bool) (*output, error) {
	if path == "" || path == "-" {
		return &output{File: os.Stdout}, nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err == nil && !replace { // a symbolic link to nothing
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
	default: // through symbolic links, which stay
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".pikokms-*") // with mode 0600
	if err != nil {
		if temporary, ok := errors.AsType[*fs.PathError](err); ok {
			err = temporary.Err // its name would tell nobody anything
		}
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	o := &output{File: f, path: path, replace: replace}
	o.detach = context.AfterFunc(ctx, o.remove)
	return o, nil
}

func (o *output) remove() {
	_ = o.Close()
	_ = os.Remove(o.Name())
}

// discard ends an output that was not committed; of a file nothing remains.
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
	if err := errors.Join(o.Sync(), o.Close()); err != nil {
		return err
	}
	if !o.detach() {
		return ctx.Err()
	}
	if o.replace {
		return os.Rename(o.Name(), o.path)
	}
	// Unlike a rename, a link never takes the place of a file that has come in the meantime.
	if os.Link(o.Name(), o.path) == nil {
		return os.Remove(o.Name())
	}
	if _, err := os.Lstat(o.path); err == nil {
		return errExists(o.path)
	}
	return os.Rename(o.Name(), o.path) // the file system has no hard links
}
