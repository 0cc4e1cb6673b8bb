package work

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
	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// target is where results go.
type target struct {
	place   *places.Place // nil if each result takes the place of its source
	several bool          // whether results go to a folder of the name of their source's place
	replace bool          // whether a result may take the place of another object
	rename  func(key string) (string, error)
	places.Writing
	dryRun  bool
	notKept losses
	placed  *placed
}

// openTarget opens OUT. Several sources need a folder or a bucket.
func openTarget(ctx context.Context, opener places.Opener, out string, several bool) (*places.Place, error) {
	if strings.Contains(out, "://") {
		p, err := opener.OpenBucket(ctx, out)
		if err == nil && several && !p.IsMany() {
			return nil, console.Usage(errors.Join(fmt.Errorf("-o %s names one object; end it in a slash to have several below it", p.Name), p.Close()))
		}
		return p, err
	}
	info, err := os.Stat(out)
	if several && err == nil && !info.IsDir() {
		return nil, console.Usage(fmt.Errorf("-o %s is a file; name a folder to have several below it", out))
	}
	if several || err == nil && info.IsDir() || os.IsPathSeparator(out[len(out)-1]) {
		return opener.OpenFolder(out)
	}
	return &places.Place{Name: out, Path: out}, nil
}

// placeOf returns where the result of an item goes.
func (t *target) placeOf(i Item) (to Item, err error) {
	if t.place == nil {
		return i, nil
	}
	if !t.place.IsMany() {
		return Item{place: t.place, Key: t.place.Only}, nil
	}
	key := i.Key
	switch {
	case i.place.Path != "":
		key = filepath.Base(i.place.Path)
	case !i.place.IsMany():
		if key = path.Base(i.Key); i.Key == "" {
			return to, console.Usage(errors.New("standard input has no name; -o names an object"))
		}
	case t.several:
		key = i.place.Base() + "/" + key
	}
	key, err = t.rename(key)
	return Item{place: t.place, Key: key}, err
}

// checkFree returns an error if the result of an item may not be put there because something stands
// there.
func (t *target) checkFree(ctx context.Context, to, from Item) error {
	if t.place == nil || t.replace {
		return nil
	}
	var err error
	if to.place.IsOfObjects() {
		var found places.Listed
		if found, err = to.place.Stat(ctx, to.Key); err == nil && found.Info != nil && !to.place.IsBucket() {
			if err := t.placed.check(files.Identity(found.Info), from); err != nil {
				return fmt.Errorf("%s: %w", to.Title(), err)
			}
		}
	} else {
		_, err = os.Lstat(to.place.Path)
	}
	switch {
	case err == nil:
		return files.ExistsError(to.Title())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return places.OfStorage(err)
}

// put stores the result that was made of s, which appears when it is whole. In place, it replaces
// the object that was read. Elsewhere it replaces something only if t.replace is set.
func (t *target) put(ctx context.Context, to, from Item, s *places.Source, content io.Reader) error {
	inPlace := t.place == nil
	switch {
	case to.place.IsOfObjects() && inPlace:
		if runtime.GOOS == "windows" && !to.place.IsBucket() { // where a file that is open can't be replaced
			content = &closingAtEOF{content, s}
		}
		return places.OfUpload(s.Replace(ctx, content))
	case to.place.IsBucket():
		if err := t.placed.check(to.Key, from); err != nil {
			return fmt.Errorf("%s: %w", to.Title(), err)
		}
		t.placed.note(to.Key, from)
		err := to.place.Put(ctx, to.Key, s, content, t.replace)
		if errors.Is(err, fs.ErrExist) {
			err = files.ExistsError(to.Title())
		}
		return places.OfUpload(err)
	case to.place.IsOfObjects():
		if err := t.checkFree(ctx, to, from); err != nil {
			return err
		}
		return t.putFile(ctx, to, from, content)
	}
	out, err := files.CreateOutput(ctx, to.place.Path, inPlace || t.replace)
	if err != nil {
		return err
	}
	defer out.Discard()
	if _, err := io.Copy(struct{ io.Writer }{out}, content); err != nil {
		return err
	}
	if inPlace {
		now, err := os.Stat(to.place.Path)
		if err != nil {
			return errors.Join(pikokms.ErrChanged, err)
		}
		if err := files.Keep(out.File, now, s.File); err != nil {
			return err
		}
	}
	_ = s.Close() // it may be what OUT replaces
	return out.Commit(ctx)
}

// closingAtEOF closes a source once its result is read.
type closingAtEOF struct {
	io.Reader
	source *places.Source
}

func (r *closingAtEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		if err := r.source.Close(); err != nil {
			return n, err
		}
	}
	return n, err
}
