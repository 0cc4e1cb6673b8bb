package command

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"strings"
	"time"
)

// item is an object to work on.
type item struct {
	place *place
	key   string
	index int64 // in the plan, from 0
	size  int64 // in bytes, as listed; -1 if it is not known
	left  left  // why it is no object to work on; it then has neither index nor size

	since time.Time   // when work on it may have begun before; zero if this is the first try
	tell  func(n int) // is to be called with each number of bytes that are read of it
}

func (i item) title() string { return i.place.title(i.key) }

// plan is the objects to work on, as they were listed before the work began. Names that follow each
// other have much in common, and a name is stored without what it has in common with the one
// before: a million of them take some tens of MiB. What is left out stands among them, with its
// kind in place of a size.
type plan struct {
	places         []*place
	objects, bytes int64
	left           [len(leftKinds)]int64 // how many things of each kind are left out
	unlisted       []unlisted
	report         *reportFile // of the work on them

	blocks   [][]byte
	inBlock  int    // names in the last block
	previous string // the name before
}

// unlisted is a folder of a place that could not be listed, so that nothing in it is in the plan.
type unlisted struct {
	Place  int    `json:"place"` // its index in places
	Key    string `json:"key"`   // ends in a slash
	Reason string `json:"reason"`
}

func (p *plan) titleOf(u unlisted) string { return p.places[u.Place].title(u.Key) }

// total is how many outcomes there are of the whole plan.
func (p *plan) total() int64 { return p.objects + int64(len(p.unlisted)) }

// namesInBlock is how many names a block of a plan has. The first of them is stored whole.
const namesInBlock = 1000

// add adds an object. The number place is the index of its place in places.
func (p *plan) add(place int, key string, size int64) {
	if len(p.blocks) == 0 || p.inBlock == namesInBlock {
		p.blocks = append(p.blocks, make([]byte, 0, 16<<10))
		p.inBlock, p.previous = 0, ""
	}
	shared := 0
	for shared < min(len(key), len(p.previous)) && key[shared] == p.previous[shared] {
		shared++
	}
	b := &p.blocks[len(p.blocks)-1]
	*b = binary.AppendUvarint(*b, uint64(place))
	*b = binary.AppendUvarint(*b, uint64(shared))
	*b = binary.AppendUvarint(*b, uint64(len(key)-shared))
	*b = append(*b, key[shared:]...)
	*b = binary.AppendVarint(*b, size)
	p.inBlock, p.previous = p.inBlock+1, key
	if kind := leftOfSize(size); kind != 0 {
		p.left[kind]++
		return
	}
	p.objects++
	p.bytes += max(size, 0)
}

// leaveOut adds what is no object to work on.
func (p *plan) leaveOut(place int, key string, kind left) { p.add(place, key, -1-int64(kind)) }

// leftOfSize returns the kind of what was added by leaveOut, and 0 for the size of an object.
func leftOfSize(size int64) left {
	if size >= -1 || size < -int64(len(leftKinds)) {
		return 0
	}
	return left(-1 - size)
}

// errPlan means that blocks of a plan, which a journal holds, are not what add made.
var errPlan = errors.New("its plan is damaged")

// load sets the blocks of a plan, and counts what is in them.
func (p *plan) load(blocks [][]byte) error {
	p.blocks = blocks
	for _, b := range blocks {
		objects, err := p.walk(b, p.objects, func(i item) bool {
			p.left[i.left]++
			p.bytes += max(i.size, 0)
			return true
		})
		if err != nil {
			return err
		}
		p.objects += objects
	}
	p.left[0] = 0
	p.inBlock = namesInBlock // a further name begins a block
	return nil
}

// walk yields what is in a block whose first object has this index.
func (p *plan) walk(b []byte, first int64, yield func(item) bool) (objects int64, err error) {
	previous := []byte(nil)
	for len(b) > 0 {
		var fields [3]uint64
		for i := range fields {
			n := 0
			if fields[i], n = binary.Uvarint(b); n <= 0 {
				return 0, errPlan
			}
			b = b[n:]
		}
		place, shared, length := fields[0], fields[1], fields[2]
		if place >= uint64(len(p.places)) || shared > uint64(len(previous)) || length > uint64(len(b)) {
			return 0, errPlan
		}
		previous = append(previous[:shared], b[:length]...)
		size, n := binary.Varint(b[length:])
		if n <= 0 {
			return 0, errPlan
		}
		b = b[length+uint64(n):]
		i := item{place: p.places[place], key: string(previous), index: first + objects, size: size, left: leftOfSize(size)}
		switch {
		case i.left != 0:
			i.index, i.size = -1, -1
		case size < -1:
			return 0, errPlan
		default:
			objects++
		}
		if !yield(i) {
			return objects, nil
		}
	}
	return objects, nil
}

// all yields the objects in the order in which they were added.
func (p *plan) all() iter.Seq[item] {
	return func(yield func(item) bool) {
		for i := range p.everything() {
			if i.left == 0 && !yield(i) {
				return
			}
		}
	}
}

// leftOut yields what is left out, in the order in which it was listed.
func (p *plan) leftOut() iter.Seq[item] {
	return func(yield func(item) bool) {
		for i := range p.everything() {
			if i.left != 0 && !yield(i) {
				return
			}
		}
	}
}

func (p *plan) everything() iter.Seq[item] {
	return func(yield func(item) bool) {
		first, more := int64(0), true
		for _, b := range p.blocks {
			n, _ := p.walk(b, first, func(i item) bool { // blocks are whole, add made them or load walked them
				more = yield(i)
				return more
			})
			if !more {
				return
			}
			first += n
		}
	}
}

// isMany tells whether OUT must have room for several objects.
func (p *plan) isMany() bool { return len(p.places) > 1 || p.places[0].isMany() }

// names returns the names of the places, in a sentence.
func (p *plan) names() string {
	names := make([]string, len(p.places))
	for i, place := range p.places {
		names[i] = printable(place.name)
	}
	return strings.Join(names, ", ")
}

// Close closes the places, and a report that was not begun.
func (p *plan) Close() {
	_ = p.report.close()
	for _, place := range p.places {
		_ = place.Close()
	}
}

// list adds the objects of a place that begin with a prefix and are wanted. The command line's own
// files are left out.
func (p *plan) list(ctx context.Context, place int, prefix string, wanted *wanted, own []os.FileInfo) error {
	at := p.places[place]
	for l, err := range at.list(ctx, prefix) {
		switch {
		case err != nil && l.key == "":
			return fmt.Errorf("%s: %w", at.name, err)
		case err != nil:
			if !wanted.isNothingIn(l.key) {
				p.unlisted = append(p.unlisted, unlisted{place, l.key, "the folder cannot be listed: " + explain(withoutPath(err))})
			}
			continue
		}
		if at.isMany() && !wanted.is(l.key) {
			continue
		}
		switch {
		case l.left != 0:
			p.leaveOut(place, l.key, l.left)
		case isOneOf(l.info, own):
			p.leaveOut(place, l.key, leftOwn)
			say(slog.LevelInfo, "left out "+printable(at.title(l.key))+": "+leftKinds[leftOwn].reason, "object", at.title(l.key))
		case at.isMany() && l.isMarker():
			p.leaveOut(place, l.key, leftEmptyFolder)
		default:
			p.add(place, l.key, l.size)
		}
	}
	return nil
}
