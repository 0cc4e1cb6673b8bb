package work

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
)

// placed records what a job has put into its target, so that no result replaces another of the same
// job. A file system may take two names for one.
type placed struct {
	plan  *Plan
	since time.Time // when an earlier run of the job began, if there was one

	mu      sync.Mutex
	seed    maphash.Seed
	indexes map[uint64]int64 // indexes of objects by their results: files by their identity, others by their key
}

func newPlaced(p *Plan) *placed {
	return &placed{plan: p, seed: maphash.MakeSeed(), indexes: make(map[uint64]int64)}
}

// check returns an error if a target was made of another object than from.
func (p *placed) check(made any, from Item) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	index, ok := p.indexes[maphash.Comparable(p.seed, made)]
	if !ok || index == from.Index {
		return nil
	}
	for other := range p.plan.All() {
		if other.Index == index {
			return fmt.Errorf("what is made of %s is there, and would be lost: both names are one there; rename one of the two", console.Printable(other.Title()))
		}
	}
	return errPlan // an index in by is one of the plan
}

// note records that a target is made of an object.
func (p *placed) note(made any, from Item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.indexes[maphash.Comparable(p.seed, made)] = from.Index
}

func (p *placed) forget(made any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.indexes, maphash.Comparable(p.seed, made))
}

// errPlacedBefore means that an earlier run of a job may have put something there.
var errPlacedBefore = errors.New("it was written since this job began, maybe for an object whose name is the same there; rename that one, or remove the file")

// putFile stores a result in the target, which is a folder.
func (t *target) putFile(ctx context.Context, to, from Item, content io.Reader) error {
	var made any
	var refused error
	err := to.place.PutFile(ctx, to.Key, content, func(old fs.FileInfo, file *os.File) error {
		if old != nil {
			refused = t.placed.check(files.Identity(old), from)
			switch {
			case refused != nil:
				refused = fmt.Errorf("%s: %w", to.Title(), refused)
			case !t.replace:
				refused = files.ExistsError(to.Title())
			case !t.placed.since.IsZero() && !old.ModTime().Before(t.placed.since):
				refused = fmt.Errorf("%s: %w", to.Title(), errPlacedBefore)
			}
		}
		if refused != nil {
			return refused
		}
		info, err := file.Stat()
		if err != nil {
			return err
		}
		made = files.Identity(info)
		t.placed.note(made, from)
		return nil
	})
	switch {
	case err == nil:
		return nil
	case refused != nil:
		return refused
	case errors.Is(err, fs.ErrExist):
		return files.ExistsError(to.Title())
	case made != nil:
		t.placed.forget(made)
	}
	return err
}
