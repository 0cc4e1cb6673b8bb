package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/kept"
)

// target is where results go.
type target struct {
	place   *place // nil if each result takes the place of its source
	several bool   // whether what a folder or a bucket holds goes below its own name
	replace bool   // whether a result may take the place of another object
	rename  func(key string) (string, error)
	writing
	dryRun bool
	lost   losses
	placed *placed
}

// openTarget opens OUT. Several sources need a folder or a bucket.
func openTarget(ctx context.Context, out string, several bool) (*place, error) {
	if strings.Contains(out, "://") {
		p, err := openBucket(ctx, out)
		if err == nil && several && !p.isMany() {
			return nil, usage(errors.Join(fmt.Errorf("-o %s names one object; end it in a slash to have several below it", p.name), p.Close()))
		}
		return p, err
	}
	info, err := os.Stat(out)
	if several && err == nil && !info.IsDir() {
		return nil, usage(fmt.Errorf("-o %s is a file; name a folder to have several below it", out))
	}
	if several || err == nil && info.IsDir() || os.IsPathSeparator(out[len(out)-1]) {
		return openFolder(out)
	}
	return &place{name: out, path: out}, nil
}

// of returns where the result of an item goes.
func (t *target) of(i item) (to item, err error) {
	if t.place == nil {
		return i, nil
	}
	if !t.place.isMany() {
		return item{place: t.place, key: t.place.only}, nil
	}
	key := i.key
	switch {
	case i.place.path != "":
		key = filepath.Base(i.place.path)
	case !i.place.isMany():
		if key = path.Base(i.key); i.key == "" {
			return to, usage(errors.New("standard input has no name; -o names an object"))
		}
	case t.several:
		key = i.place.base() + "/" + key
	}
	key, err = t.rename(key)
	return item{place: t.place, key: key}, err
}

// checkFree returns an error if the result of an item may not be put there because something stands
// there.
func (t *target) checkFree(ctx context.Context, to, from item) error {
	if t.place == nil || t.replace {
		return nil
	}
	var err error
	if to.place.isOfObjects() {
		var found listed
		if found, err = to.place.stat(ctx, to.key); err == nil && found.info != nil && !to.place.isBucket() {
			if err := t.placed.check(identity(found.info), from); err != nil {
				return fmt.Errorf("%s: %w", to.title(), err)
			}
		}
	} else {
		_, err = os.Lstat(to.place.path)
	}
	switch {
	case err == nil:
		return errExists(to.title())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return ofStorage(err)
}

// put stores the result that was made of s. It appears when it is whole. What it replaces is what
// was read, or nothing, or, if so wanted, anything.
func (t *target) put(ctx context.Context, to, from item, s *source, content io.Reader) error {
	inPlace := t.place == nil
	switch {
	case to.place.isOfObjects() && inPlace:
		if runtime.GOOS == "windows" { // where a file that is open can't be replaced
			content = &closingAtEOF{content, s}
		}
		return ofUpload(s.replace(ctx, content))
	case to.place.isBucket():
		if err := t.placed.check(to.key, from); err != nil {
			return fmt.Errorf("%s: %w", to.title(), err)
		}
		t.placed.note(to.key, from)
		err := to.place.put(ctx, to.key, s, content, t.replace)
		if errors.Is(err, fs.ErrExist) {
			err = errExists(to.title())
		}
		return ofUpload(err)
	case to.place.isOfObjects():
		if err := t.checkFree(ctx, to, from); err != nil {
			return err
		}
		return t.putFile(ctx, to, from, content)
	}
	out, err := createOutput(ctx, to.place.path, inPlace || t.replace)
	if err != nil {
		return err
	}
	defer out.discard()
	if _, err := io.Copy(struct{ io.Writer }{out}, content); err != nil {
		return err
	}
	if inPlace {
		now, err := os.Stat(to.place.path)
		if err != nil {
			return errors.Join(pikokms.ErrChanged, err)
		}
		if err := keep(out.File, now, s.file); err != nil {
			return err
		}
	}
	_ = s.Close() // it may be what OUT replaces
	return out.commit(ctx)
}

// keep gives a file that is to take the place of another its owner, group, mode and time. It
// refuses if that one, as it is now, is not as it was when it was read.
func keep(file *os.File, now, before os.FileInfo) error {
	if now == nil || !isSame(now, before) {
		return pikokms.ErrChanged
	}
	if err := kept.Owner(file, now); err != nil {
		return err
	}
	return kept.ModTime(file, now)
}

// isSame tells whether a file is as it was.
func isSame(now, before os.FileInfo) bool {
	return before != nil && os.SameFile(now, before) && now.Size() == before.Size() && now.ModTime().Equal(before.ModTime())
}

// closingAtEOF closes a source once its result is read.
type closingAtEOF struct {
	io.Reader
	source *source
}

// Read implements io.Reader.
func (r *closingAtEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		if err := r.source.Close(); err != nil {
			return n, err
		}
	}
	return n, err
}
