package work

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// newcomers returns an error if objects have come since a resumed job listed its objects.
func (e *Each) newcomers(ctx context.Context, p *Plan) error {
	selected, err := e.selection()
	if err != nil {
		return err
	}
	type name struct {
		place int
		key   string
	}
	seed, known, numbers := maphash.MakeSeed(), make([]uint64, 0, p.Objects), make(map[*places.Place]int)
	for i, at := range p.Places {
		numbers[at] = i
	}
	for i := range p.everything() {
		known = append(known, maphash.Comparable(seed, name{numbers[i.place], i.Key}))
	}
	slices.Sort(known)
	current := &Plan{Places: p.Places}
	for i := range p.Places {
		if err := current.list(ctx, i, "", selected, nil); err != nil { // the plan has the command line's own files
			return fmt.Errorf("what has come since it was listed: %w", err)
		}
	}
	out := ""
	if flag := e.command.Flags().Lookup("out"); flag != nil && flag.Changed {
		out = strings.TrimSuffix(places.Absolute(flag.Value.String()), "/")
	}
	count, example := int64(0), ""
	for i := range current.All() {
		if _, ok := slices.BinarySearch(known, maphash.Comparable(seed, name{numbers[i.place], i.Key})); ok {
			continue
		}
		if out != "" && strings.HasPrefix(places.Absolute(i.Title()), out+"/") {
			continue // the job made it
		}
		if count++; count == 1 {
			example = console.Printable(i.Title())
		}
	}
	if count == 0 {
		return nil
	}
	return fmt.Errorf("%s came since the objects were listed on %s, %s among them; the same command line now takes in what has come", console.Count(count, "object"), e.listed(), example)
}
