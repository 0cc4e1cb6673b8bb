package work

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// isOneOf reports whether a file is one of others, maybe under another name.
func isOneOf(file os.FileInfo, others []os.FileInfo) bool {
	return file != nil && slices.ContainsFunc(others, func(other os.FileInfo) bool { return os.SameFile(file, other) })
}

// Plan is the objects to work on, as they were listed before the work began. A name is stored
// without the beginning that it shares with the name before, so a million of them take some tens of
// MiB. What is left out stands among the objects, with its kind in place of a size.
type Plan struct {
	Places         []*places.Place
	Objects, bytes int64
	left           [len(places.LeftKinds)]int64 // how many things of each kind are left out
	Unlisted       []unlisted                   // folders that could not be listed
	report         *reportFile                  // of the work on them

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

func (p *Plan) TitleOf(u unlisted) string { return p.Places[u.Place].Title(u.Key) }

// total returns the number of outcomes of the whole plan.
func (p *Plan) total() int64 { return p.Objects + int64(len(p.Unlisted)) }

// namesInBlock is how many names a block of a plan has. The first of them is stored whole.
const namesInBlock = 1000

// add adds an object. The number place is the index of its place in Places.
func (p *Plan) add(place int, key string, size int64) {
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
	p.Objects++
	p.bytes += max(size, 0)
}

// leaveOut adds something that is not worked on, and why.
func (p *Plan) leaveOut(place int, key string, kind places.Left) { p.add(place, key, -1-int64(kind)) }

// leftOfSize returns the kind that leaveOut stored in place of a size. It is 0 for the size of an
// object.
func leftOfSize(size int64) places.Left {
	if size >= -1 || size < -int64(len(places.LeftKinds)) {
		return 0
	}
	return places.Left(-1 - size)
}

// errPlan means that blocks of a plan, which a journal holds, are not what add made.
var errPlan = errors.New("its plan is damaged")

// load sets the blocks of a plan, and counts what is in them.
func (p *Plan) load(blocks [][]byte) error {
	p.blocks = blocks
	for _, b := range blocks {
		objects, err := p.walk(b, p.Objects, func(i Item) bool {
			p.left[i.Left]++
			p.bytes += max(i.Size, 0)
			return true
		})
		if err != nil {
			return err
		}
		p.Objects += objects
	}
	p.left[0] = 0
	p.inBlock = namesInBlock // a further name begins a block
	return nil
}

// walk yields what is in a block whose first object has this index.
func (p *Plan) walk(b []byte, first int64, yield func(Item) bool) (objects int64, err error) {
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
		if place >= uint64(len(p.Places)) || shared > uint64(len(previous)) || length > uint64(len(b)) {
			return 0, errPlan
		}
		previous = append(previous[:shared], b[:length]...)
		size, n := binary.Varint(b[length:])
		if n <= 0 {
			return 0, errPlan
		}
		b = b[length+uint64(n):]
		i := Item{place: p.Places[place], Key: string(previous), Index: first + objects, Size: size, Left: leftOfSize(size)}
		switch {
		case i.Left != 0:
			i.Index, i.Size = -1, -1
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

// All yields the objects in the order in which they were added.
func (p *Plan) All() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for i := range p.everything() {
			if i.Left == 0 && !yield(i) {
				return
			}
		}
	}
}

// LeftOut yields what is left out, in the order in which it was listed.
func (p *Plan) LeftOut() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for i := range p.everything() {
			if i.Left != 0 && !yield(i) {
				return
			}
		}
	}
}

// everything yields the objects and what is left out, in the order in which they were added.
func (p *Plan) everything() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		first, more := int64(0), true
		for _, b := range p.blocks {
			n, _ := p.walk(b, first, func(i Item) bool { // it can't fail: add made the blocks, or load has walked them
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

// needsSeveral reports whether OUT must have room for several objects.
func (p *Plan) needsSeveral() bool { return len(p.Places) > 1 || p.Places[0].IsMany() }

// names returns the names of the places, in a sentence.
func (p *Plan) names() string {
	names := make([]string, len(p.Places))
	for i, place := range p.Places {
		names[i] = console.Printable(place.Name)
	}
	return strings.Join(names, ", ")
}

// Close closes the places, and a report that was not begun.
func (p *Plan) Close() {
	_ = p.report.close()
	for _, place := range p.Places {
		_ = place.Close()
	}
}

// list adds the objects of a place that begin with a prefix and are selected. The command line's
// own files are left out.
func (p *Plan) list(ctx context.Context, place int, prefix string, selected *selection, own []os.FileInfo) error {
	at := p.Places[place]
	for l, err := range at.List(ctx, prefix) {
		switch {
		case err != nil && l.Key == "":
			return fmt.Errorf("%s: %w", at.Name, err)
		case err != nil:
			if !selected.isNothingIn(l.Key) {
				p.Unlisted = append(p.Unlisted, unlisted{place, l.Key, "the folder cannot be listed: " + console.Explain(files.WithoutPath(err))})
			}
			continue
		}
		if at.IsMany() && !selected.takes(l.Key) {
			continue
		}
		switch {
		case l.Left != 0:
			p.leaveOut(place, l.Key, l.Left)
		case isOneOf(l.Info, own):
			p.leaveOut(place, l.Key, places.LeftOwn)
			console.Say(slog.LevelInfo, "left out "+console.Printable(at.Title(l.Key))+": "+places.LeftKinds[places.LeftOwn].Reason, "object", at.Title(l.Key))
		case at.IsMany() && l.IsMarker():
			p.leaveOut(place, l.Key, places.LeftEmptyFolder)
		default:
			p.add(place, l.Key, l.Size)
		}
	}
	return nil
}

// Unread returns an error if objects failed, or if folders could not be listed. words say how
// objects failed.
func (p *Plan) Unread(failed int64, words string) error {
	var all []string
	if failed > 0 {
		all = append(all, console.Count(failed, "object")+" "+words)
	}
	if n := int64(len(p.Unlisted)); n > 0 {
		all = append(all, console.Count(n, "folder")+" could not be listed")
	}
	if all == nil {
		return nil
	}
	return errors.New(strings.Join(all, ", "))
}
