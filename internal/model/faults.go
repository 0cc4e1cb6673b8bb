package model

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"piko.sh/pikokms/internal/adversary"
)

// EachFault runs each operation on an object that exists, once for every call that the operation
// makes of the store's parts. That call fails. The operation must return the fault, and leave the
// object as it was.
func EachFault(t *testing.T, s System) {
	t.Helper()
	ctx := context.Background()
	content := bytes.Repeat([]byte("content of an object "), 10_000)
	total := 0
	for _, bound := range []bool{false, true} {
		for name, operation := range map[string]func(Store) ([]byte, error){
			"Put": func(s Store) ([]byte, error) {
				return nil, s.Put(ctx, "folder/0", struct{ io.Reader }{bytes.NewReader(content)})
			},
			"Get":    func(s Store) ([]byte, error) { return s.Get(ctx, "folder/0") },
			"Range":  func(s Store) ([]byte, error) { return s.Range(ctx, "folder/0", 0, 100_000) },
			"Copy":   func(s Store) ([]byte, error) { return nil, s.Copy(ctx, "folder/0", "folder/1") },
			"Rewrap": func(s Store) ([]byte, error) { return nil, s.Rewrap(ctx, "folder/0") },
		} {
			faults := adversary.EachCall(func(c *adversary.Calls) {
				check(t, s.Reset())
				sound, err := s.open(&adversary.Calls{}, firstKey, bound)
				check(t, err)
				check(t, sound.Put(ctx, "folder/0", bytes.NewReader(content)))
				store, err := s.open(c, secondKey, bound)
				check(t, err)
				got, err := operation(store)
				check(t, store.Close())
				switch {
				case !bytes.HasPrefix(content, got):
					t.Fatalf("%s: bytes were released that nobody put", name)
				case c.Failed() && err == nil && name == "Range" && bytes.Equal(got, content[:100_000]):
					// The store resumed the fetch that broke off.
				case c.Failed() && !errors.Is(err, adversary.ErrFault):
					t.Fatalf("%s, call %d fails, and it says: %v", name, c.Made(), err)
				case !c.Failed() && err != nil:
					t.Fatalf("%s: %v", name, err)
				}
				after, err := sound.Get(ctx, "folder/0")
				check(t, err)
				if !bytes.Equal(content, after) {
					t.Fatalf("%s, call %d: the object is another", name, c.Made())
				}
				keys, err := s.Lists()
				check(t, err)
				if c.Failed() && len(keys) != 1 {
					t.Fatalf("%s, call %d: in the storage are %q", name, c.Made(), keys)
				}
				check(t, sound.Close())
			})
			total += faults
		}
	}
	if total == 0 {
		t.Fatal("no call of the store's parts is counted")
	}
	t.Logf("%d faults", total)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
