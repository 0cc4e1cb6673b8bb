package places

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"piko.sh/pikokms"
)

// download is the content of an object as it comes from a storage. Its errors distinguish a failure
// of the storage from the end of an object that was cut short before it was stored.
type download struct {
	content  io.Reader
	size     int64 // in bytes, or -1
	isRemote bool  // of a bucket
	n        int64
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.content.Read(p)
	d.n += int64(n)
	switch {
	case err == io.EOF && d.isRemote && d.n < d.size:
		err = fmt.Errorf("the download ended after %d of %d bytes: %w", d.n, d.size, io.ErrUnexpectedEOF)
	case err == nil || err == io.EOF:
		return n, err
	}
	return n, storageError{err, d.isRemote}
}

// placeObject is an object that is open for random access, and is read through another io.ReaderAt.
type placeObject struct {
	*io.SectionReader
	object pikokms.Object
}

func newPlaceObject(object pikokms.Object, reads io.ReaderAt) placeObject {
	return placeObject{io.NewSectionReader(reads, 0, object.Size()), object}
}

func (o placeObject) Close() error { return o.object.Close() }

func (o placeObject) ModTime() time.Time { return o.object.ModTime() }

// storedReads reads a stored object, and marks errors as those of the storage.
type storedReads struct {
	object   pikokms.Object
	isRemote bool // of a bucket
}

func (r storedReads) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.object.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = storageError{err, r.isRemote}
	}
	return n, err
}

// resumingReads reads an object, and goes on where a download broke off.
type resumingReads struct {
	object pikokms.Object
	ctx    context.Context
}

func (r resumingReads) ReadAt(p []byte, off int64) (n int, err error) {
	for {
		got := 0
		_, err = Retry(r.ctx, func() (struct{}, bool, error) {
			var err error
			got, err = r.object.ReadAt(p[n:], off+int64(n))
			return struct{}{}, got == 0 && IsTransient(err), err
		})
		if n += got; got == 0 || err == nil || !IsTransient(err) {
			return n, err
		}
	}
}

// OpenSteady opens an object for random access. It tries again to open and to read it where that
// may help.
func (p *Place) OpenSteady(ctx context.Context, key string) (pikokms.Object, error) {
	stored, err := Retry(ctx, func() (pikokms.Object, bool, error) {
		stored, err := p.Open(ctx, key)
		return stored, IsTransient(err), err
	})
	if err != nil {
		return nil, err
	}
	return newPlaceObject(stored, resumingReads{stored, ctx}), nil
}

// errDisordered means that a listing broke off and can't be resumed, since its names are in no
// order.
var errDisordered = errors.New("the listing is in no order, so it cannot go on where it broke off")

// listSteadily yields the objects that begin with a prefix, as store.list does. A listing that
// breaks off begins anew, and passes over what was yielded.
func listSteadily(ctx context.Context, from store, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		last, ordered, yielded := "", true, false
		waits, left := newWaits(), Tries
		for {
			var failure error
			moved := false
			for listed, err := range from.list(ctx, prefix) {
				if err != nil && listed.Key == "" {
					failure = OfStorage(err)
					break
				}
				if err == nil {
					if yielded && listed.Key <= last && !moved && ordered {
						continue // it was yielded
					}
					ordered = ordered && (!yielded || listed.Key > last)
					last, yielded, moved = listed.Key, true, true
				}
				if !yield(listed, err) {
					return
				}
			}
			if failure == nil {
				return
			}
			if moved {
				waits.Reset()
				left = Tries
			}
			if left--; left == 0 || !IsTransient(failure) {
				yield(Listed{}, failure)
				return
			}
			if !ordered {
				yield(Listed{}, fmt.Errorf("%w: %w", errDisordered, failure))
				return
			}
			select {
			case <-time.After(waits.NextBackOff()):
			case <-ctx.Done():
				yield(Listed{}, ctx.Err())
				return
			}
		}
	}
}
