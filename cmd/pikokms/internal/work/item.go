package work

import (
	"context"
	"errors"
	"time"

	"piko.sh/pikokms/cmd/pikokms/internal/places"
)

// Read opens an object to be read from its beginning, and counts the bytes that are read. It looks
// whether the S3 Encryption Client wrote the object.
func (i Item) Read(ctx context.Context) (*places.Source, error) {
	s, err := i.place.Read(ctx, i.Key)
	if err != nil {
		return nil, err
	}
	s.Counted.Tell = i.tell
	if err := s.LookForClient(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Item is an object to work on.
type Item struct {
	place *places.Place
	Key   string
	Index int64       // in the plan, from 0
	Size  int64       // in bytes, as listed; -1 if it is not known
	Left  places.Left // why it is no object to work on; it then has neither index nor size

	Since time.Time   // when work on it may have begun before this try; zero on the first one
	tell  func(n int) // called with the number of bytes of each read
}

// BesideInstruction returns the object to which an instruction file belongs by its name, and
// whether the item has the name of one.
func (i Item) BesideInstruction() (Item, bool) {
	key, ok := i.place.BesideInstruction(i.Key)
	return Item{place: i.place, Key: key, Size: -1}, ok
}

func (i Item) Title() string { return i.place.Title(i.Key) }
