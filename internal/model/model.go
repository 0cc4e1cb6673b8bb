// Package model compares a store that encrypts with a plain map, under concurrent use, faults,
// changes of keys, and restarts.
package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// Store is what is compared. Its errors hold fs.ErrNotExist for an object that does not exist.
type Store interface {
	Put(ctx context.Context, key string, content io.Reader) error
	Get(ctx context.Context, key string) ([]byte, error)
	Range(ctx context.Context, key string, from, length int64) ([]byte, error)
	Copy(ctx context.Context, from, to string) error
	Delete(ctx context.Context, key string) error
	Rewrap(ctx context.Context, key string) error
	Close() error
}

// A System opens stores over one storage again and again, as a process does that is restarted.
type System struct {
	// Open opens the store, with faults in its parts. The options name its keys, in which the
	// faults are already. Open may change the slice.
	Open func(faults *adversary.Calls, options []pikokms.Option) (Store, error)

	Reset   func() error             // empties the storage
	Expects func(err error) bool     // reports whether an error is one of concurrent use; may be nil
	Lists   func() ([]string, error) // the keys in the storage

	// Unconditional is true if a Rewrap can bring back what was replaced or deleted meanwhile.
	Unconditional bool
}

// The names of the wrapping keys, of which one at a time is current.
const (
	firstKey  = "first"
	secondKey = "second"
)

var wrappingKeys = sync.OnceValue(func() map[string]provider.Provider {
	keys := make(map[string]provider.Provider)
	for i, name := range []string{firstKey, secondKey} {
		var err error
		if keys[name], err = local.NewProvider(local.Config{Key: bytes.Repeat([]byte{byte(i + 1)}, 32), Name: name}); err != nil {
			panic(err)
		}
	}
	return keys
})

// open opens a store with a current key. Whether names are bound is the same for all stores over
// one storage.
func (s System) open(faults *adversary.Calls, current string, bound bool) (Store, error) {
	options := []pikokms.Option{pikokms.WithDefaultCryptoProvider(current)}
	for name, key := range wrappingKeys() {
		options = append(options, pikokms.WithCryptoProvider(name, faults.Keys(key)))
	}
	if bound {
		options = append(options, pikokms.BindObjectName("model"))
	}
	return s.Open(faults, options)
}

const objects = 4

type kind int

const (
	put kind = iota
	get
	ranged
	copied
	removed
	rewrapped
	failing // a put whose source fails
	kinds   // how many there are
)

// operation is one of a batch of operations that run at the same time.
type operation struct {
	kind         kind
	key, to      string
	content      []byte
	from, length int64

	got []byte
	err error
}

// Check runs batches of operations, those of a batch at the same time, and compares the results
// with a map. Operations of a batch on one object may take effect in any order. Faults may make any
// of them fail, but then it must have done all or nothing.
func Check(t *testing.T, s System) {
	total := 0
	rapid.Check(t, func(t *rapid.T) {
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		bound := rapid.Bool().Draw(t, "bound names")
		state := make(map[string][]byte) // of objects that exist
		for range rapid.IntRange(1, 8).Draw(t, "batches") {
			current := rapid.SampledFrom([]string{firstKey, secondKey}).Draw(t, "current key")
			oneIn := rapid.SampledFrom([]int{0, 0, 30, 8}).Draw(t, "one call of so many fails")
			calls := &adversary.Calls{Fails: func(int) bool { return oneIn > 0 && rand.IntN(oneIn) == 0 }}
			store, err := s.open(calls, current, bound)
			if err != nil {
				t.Fatal(err)
			}
			batch := draw(t)
			run(store, batch)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			total += len(batch)
			settle(t, s, batch, state, oneIn > 0, bound)
		}
	})
	t.Logf("%d operations", total)
}

// draw returns a batch that rapid chooses.
func draw(t *rapid.T) []*operation {
	name := func(label string) string {
		return fmt.Sprint("folder/", rapid.IntRange(0, objects-1).Draw(t, label))
	}
	batch := make([]*operation, rapid.IntRange(1, 10).Draw(t, "operations"))
	for i := range batch {
		o := &operation{kind: kind(rapid.IntRange(0, int(kinds)-1).Draw(t, "kind")), key: name("key"), to: name("to")}
		size := rapid.SampledFrom([]int{0, 1, 1000, 65_535, 65_536, 200_000}).Draw(t, "size")
		o.content = make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(rapid.IntRange(0, 255).Draw(t, "seed"))}).Read(o.content) // never fails
		o.from, o.length = rapid.Int64Range(0, 70_000).Draw(t, "from"), rapid.Int64Range(0, 70_000).Draw(t, "length")
		batch[i] = o
	}
	return batch
}

// run runs the operations of a batch at the same time.
func run(s Store, batch []*operation) {
	ctx := context.Background()
	var all sync.WaitGroup
	for _, o := range batch {
		all.Go(func() {
			switch o.kind {
			case put:
				o.err = s.Put(ctx, o.key, bytes.NewReader(o.content))
			case failing:
				o.err = s.Put(ctx, o.key, &adversary.Source{Rest: o.content, Ending: adversary.Ending{Err: adversary.ErrLost}})
			case get:
				o.got, o.err = s.Get(ctx, o.key)
			case ranged:
				o.got, o.err = s.Range(ctx, o.key, o.from, o.length)
			case copied:
				o.err = s.Copy(ctx, o.key, o.to)
			case removed:
				o.err = s.Delete(ctx, o.key)
			case rewrapped:
				o.err = s.Rewrap(ctx, o.key)
			}
		})
	}
	all.Wait()
}

// possible returns the contents that an object can have during a batch, and whether it can be
// absent.
func possible(state map[string][]byte, batch []*operation, key string) (contents [][]byte, absent bool) {
	seen := map[string]bool{}
	var visit func(key string)
	visit = func(key string) {
		if seen[key] {
			return
		}
		seen[key] = true
		if content, ok := state[key]; ok {
			contents = append(contents, content)
		}
		for _, o := range batch {
			switch {
			case o.kind == put && o.key == key:
				contents = append(contents, o.content)
			case o.kind == copied && o.to == key:
				visit(o.key)
			}
		}
	}
	visit(key)
	_, existed := state[key]
	absent = !existed || slices.ContainsFunc(batch, func(o *operation) bool { return o.kind == removed && o.key == key })
	return contents, absent
}

// settle checks what the operations returned, and what the store contains after them, which becomes
// the state.
func settle(t *rapid.T, s System, batch []*operation, state map[string][]byte, faulty, bound bool) {
	for _, o := range batch {
		contents, absent := possible(state, batch, o.key)
		switch {
		case o.kind == failing:
			if o.err == nil {
				t.Fatalf("an upload of %s whose source failed succeeded", o.key)
			}
		case errors.Is(o.err, fs.ErrNotExist):
			if !absent {
				t.Fatalf("operation %d on %s says that it does not exist: %v", o.kind, o.key, o.err)
			}
		case o.err != nil:
			known := len(batch) > 1 && (errors.Is(o.err, pikokms.ErrChanged) || s.Expects != nil && s.Expects(o.err))
			if !known && !(faulty && errors.Is(o.err, adversary.ErrFault)) {
				t.Fatalf("operation %d on %s: %v", o.kind, o.key, o.err)
			}
		case o.kind == get && !slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(c, o.got) }):
			t.Fatalf("%s: what was got was never put", o.key)
		case o.kind == ranged && !slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(cut(c, o.from, o.length), o.got) }):
			t.Fatalf("%s: the range %d+%d was never put", o.key, o.from, o.length)
		}
	}
	store, err := s.open(&adversary.Calls{}, firstKey, bound)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	found := make(map[string][]byte)
	for i := range objects {
		key := fmt.Sprint("folder/", i)
		contents, absent := possible(state, batch, key)
		got, err := store.Get(context.Background(), key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !absent {
				t.Fatalf("%s is gone", key)
			}
		case err != nil:
			t.Fatalf("%s: %v", key, err)
		case !slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(c, got) }):
			t.Fatalf("%s has a content that was never put", key)
		default:
			found[key] = got
		}
		checkSingleWrite(t, s, batch, key, found)
	}
	keys, err := s.Lists()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if _, ok := found[key]; !ok {
			t.Fatalf("%s is left in the storage", key)
		}
	}
	clear(state)
	for key, content := range found {
		state[key] = content
	}
}

// checkSingleWrite checks an object that a single operation of the batch wrote, if that operation
// succeeded.
func checkSingleWrite(t *rapid.T, s System, batch []*operation, key string, found map[string][]byte) {
	var writes []*operation
	for _, o := range batch {
		switch {
		case o.kind == copied && o.to == key, o.kind == rewrapped && o.key == key && s.Unconditional:
			return // the other operations of the batch decide what was copied or rewrapped
		case (o.kind == put || o.kind == removed) && o.key == key:
			writes = append(writes, o)
		}
	}
	if len(writes) != 1 || writes[0].err != nil {
		return
	}
	got, exists := found[key]
	if writes[0].kind == removed && exists {
		t.Fatalf("%s was deleted and is there", key)
	}
	if writes[0].kind == put && !(exists && bytes.Equal(got, writes[0].content)) {
		t.Fatalf("%s was put and is another, or is not there", key)
	}
}

// cut returns a range of a content, as far as the content has it.
func cut(content []byte, from, length int64) []byte {
	n := int64(len(content))
	return content[min(from, n):min(from+length, n)]
}
