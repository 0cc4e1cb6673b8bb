// Package files makes output files, which appear under their names when they are whole.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"piko.sh/pikokms/outfile"
)

// OpenInput opens IN, the first argument or else standard input. It returns how many bytes there
// are to read, or -1 if that is not known, as for a pipe.
func OpenInput(arguments []string) (*os.File, int64, error) {
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

// Output is where a result goes: standard output, a device or a pipe, or a file that appears only
// when it is whole.
type Output struct {
	// File is open for writing. When there is a path, it does not have that name yet.
	*os.File
	// Path is the name that the file gets. It is empty for what is written to directly.
	Path    string
	replace bool
	// early writes the file to disk while it is made.
	early io.Writer
	// detach stops the removal of the file at the end of the context. It returns false if the context
	// has ended already.
	detach func() bool
}

func ExistsError(path string) error {
	return fmt.Errorf("%s exists and is kept; -f replaces it", path)
}

// CreateOutput opens OUT. When ctx ends, a file that has not been committed is removed.
func CreateOutput(ctx context.Context, path string, replace bool) (*Output, error) {
	if path == "" || path == "-" {
		return &Output{File: os.Stdout}, nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err == nil && !replace {
			// It is a symbolic link to nothing.
			return nil, ExistsError(path)
		}
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory; -o names a file", path)
	case !info.Mode().IsRegular():
		return openDirectly(path, info)
	default:
		if stream := OwnStream(path, info); stream != nil {
			return &Output{File: stream}, nil
		}
		if !replace {
			return nil, ExistsError(path)
		}
		// Symbolic links stay, and the file that they lead to is replaced.
		if _, err := ResolveOutput(path, false); err != nil {
			return nil, fmt.Errorf("-o: %w", err)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
	}
	f, err := createUnnamed(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", path, WithoutPath(err))
	}
	o := &Output{File: f, Path: path, replace: replace, early: outfile.NewWriter(f)}
	o.detach = context.AfterFunc(ctx, o.remove)
	return o, nil
}

// openDirectly opens a device or a named pipe, unless another user may have planted it.
func openDirectly(path string, info os.FileInfo) (*Output, error) {
	if _, err := ResolveOutput(path, false); err != nil {
		return nil, fmt.Errorf("-o: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if opened, err := f.Stat(); err != nil || !os.SameFile(opened, info) {
		return nil, errors.Join(fmt.Errorf("-o: %s was changed meanwhile", path), err, f.Close())
	}
	return &Output{File: f}, nil
}

// WithoutPath returns the cause of err without the name of a temporary file, which users don't
// know.
func WithoutPath(err error) error {
	if named, ok := errors.AsType[*fs.PathError](err); ok {
		return named.Err
	}
	if named, ok := errors.AsType[*os.LinkError](err); ok {
		return named.Err
	}
	return err
}

// blame adds the name of OUT to the error of a write.
func (o *Output) blame(err error) error {
	if err == nil || o.Path == "" {
		return err
	}
	return fmt.Errorf("writing %s: %w", o.Path, WithoutPath(err))
}

func (o *Output) Write(p []byte) (int, error) {
	w := o.early
	if w == nil {
		w = o.File
	}
	n, err := w.Write(p)
	return n, o.blame(err)
}

func (o *Output) remove() {
	_ = o.Close()
	removeUnnamed(o.Name())
}

// Discard closes an output that was not committed, and leaves no file behind. After commit it does
// nothing.
func (o *Output) Discard() {
	if o.Path != "" {
		o.detach()
		o.remove()
	}
}

// Commit closes the output, and makes a file appear under its name.
func (o *Output) Commit(ctx context.Context) error {
	if o.Path == "" {
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
		return o.cleanUp(temporary, o.blame(err))
	}
	if o.replace {
		return o.cleanUp(temporary, os.Rename(temporary, o.Path))
	}
	// Unlike a rename, a link never replaces a file that was made in the meantime.
	if os.Link(temporary, o.Path) == nil {
		return o.cleanUp(temporary, os.Remove(temporary))
	}
	if _, err := os.Lstat(o.Path); err == nil {
		return o.cleanUp(temporary, ExistsError(o.Path))
	}
	// The file system has no hard links.
	return o.cleanUp(temporary, os.Rename(temporary, o.Path))
}

// cleanUp returns err. If it is not nil, the file did not get its own name, and cleanUp removes the
// temporary one.
func (o *Output) cleanUp(temporary string, err error) error {
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}
