package branchkey_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// alteredTable answers with changed items, as a table does that somebody has changed.
type alteredTable struct {
	branchkey.Table
	alter func(asked string, item branchkey.Item) branchkey.Item
}

// newAltered returns a store in which alter changes items that are read, and the table.
func newAltered(t testing.TB, s *testStore) (*branchkey.Store, *alteredTable) {
	t.Helper()
	wrapper, err := kmswrap.New(t.Context(), awskms.Config{KeyID: s.key.ARN, Endpoint: s.kms.URL})
	require.NoError(t, err)
	altered := &alteredTable{Table: s.table}
	store := branchkey.StoreOf(altered, wrapper, "")
	return store, altered
}

func (a *alteredTable) Get(ctx context.Context, id, kind string) (branchkey.Item, error) {
	item, err := a.Table.Get(ctx, id, kind)
	return a.alter(kind, item), err
}

func (a *alteredTable) All(ctx context.Context, id string) iter.Seq2[branchkey.Item, error] {
	return func(yield func(branchkey.Item, error) bool) {
		for item, err := range a.Table.All(ctx, id) {
			if !yield(a.alter(item.Attributes["type"], item), err) {
				return
			}
		}
	}
}

// itemsOf returns all items of a branch key.
func itemsOf(t testing.TB, table branchkey.Table, id string) (all []branchkey.Item) {
	t.Helper()
	for item, err := range table.All(t.Context(), id) {
		require.NoError(t, err)
		all = append(all, item)
	}
	return all
}

// refusesItem checks that every use of a branch key is refused for the sake of an item, and returns
// the error. asked is the item's type.
func refusesItem(t testing.TB, store *branchkey.Store, id, asked string, stored []byte, name string) error {
	t.Helper()
	ctx := t.Context()
	p, err := branchkey.ProviderOf(ctx, store, branchkey.Config{BranchKeyID: id, TTL: time.Hour, CheckLater: true})
	require.NoError(t, err)
	defer p.Close()
	switch {
	case asked == "branch:ACTIVE":
		_, err = p.GenerateDataKey(ctx, nil)
		require.Error(t, err, name)
		_, err = store.CreateVersion(ctx, id)
		require.Error(t, err, name)
	case asked == "branch:version:"+versionOfStored(t, stored):
		_, err = open(ctx, p, stored)
		require.Error(t, err, name)
	}
	err = store.Check(ctx, id)
	require.Error(t, err, name)
	return err
}

// versionOfStored returns the version of the branch key that a message is under.
func versionOfStored(t testing.TB, stored []byte) string {
	t.Helper()
	h, _, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	return versionOf(h.EncryptedDataKeys[0].Ciphertext)
}

func isRefusal(err error) bool {
	for _, sentinel := range []error{branchkey.ErrDamaged, branchkey.ErrRefused, branchkey.ErrHierarchyVersion, provider.ErrUntrustedKey} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

func TestEveryByteOfAnItem(t *testing.T) {
	s := newTestStore(t)
	id, err := s.Create(t.Context(), "tenant-42", map[string]string{"tenant": "42"})
	require.NoError(t, err)
	stored := seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: id}), "x", nil)
	_, err = s.CreateVersion(t.Context(), id) // the active item serves to read its own version
	require.NoError(t, err)
	store, table := newAltered(t, s)
	items := itemsOf(t, s.table, id)
	changes, seen := 0, 0
	refused := func(asked, name string, alter func(branchkey.Item) branchkey.Item) {
		t.Helper()
		if seen++; race.Enabled && seen%16 != 0 { // the race detector learns nothing from more
			return
		}
		table.alter = func(kind string, item branchkey.Item) branchkey.Item {
			if kind != asked {
				return item
			}
			return alter(branchkey.Item{Attributes: maps.Clone(item.Attributes), Enc: bytes.Clone(item.Enc)})
		}
		err := refusesItem(t, store, id, asked, stored, asked+": "+name)
		require.True(t, isRefusal(err), "%s: %s: %v", asked, name, err)
		changes++
	}
	for _, item := range items {
		kind := item.Attributes["type"]
		for i := range item.Enc {
			refused(kind, fmt.Sprintf("byte %d of the key", i), func(item branchkey.Item) branchkey.Item {
				item.Enc[i] ^= 1
				return item
			})
		}
		refused(kind, "cut off", func(item branchkey.Item) branchkey.Item { item.Enc = item.Enc[:len(item.Enc)-1]; return item })
		refused(kind, "no key", func(item branchkey.Item) branchkey.Item { item.Enc = nil; return item })
		for name, value := range item.Attributes {
			for i := range len(value) {
				refused(kind, fmt.Sprintf("byte %d of %s", i, name), func(item branchkey.Item) branchkey.Item {
					item.Attributes[name] = value[:i] + string(value[i]^1) + value[i+1:]
					return item
				})
			}
			refused(kind, "without "+name, func(item branchkey.Item) branchkey.Item { delete(item.Attributes, name); return item })
			for i := range len(name) {
				refused(kind, fmt.Sprintf("byte %d of the name %s", i, name), func(item branchkey.Item) branchkey.Item {
					delete(item.Attributes, name)
					item.Attributes[name[:i]+string(name[i]^1)+name[i+1:]] = value
					return item
				})
			}
		}
		for _, name := range []string{"more", "aws-crypto-ec:more", "tablename", "version2"} {
			refused(kind, "with "+name, func(item branchkey.Item) branchkey.Item { item.Attributes[name] = "x"; return item })
		}
	}
	t.Logf("%d changes of %d items refused", changes, len(items))

	table.alter = func(_ string, item branchkey.Item) branchkey.Item {
		item.Attributes["hierarchy-version"] = "2"
		return item
	}
	err = refusesItem(t, store, id, "branch:ACTIVE", stored, "hierarchy-version 2")
	require.ErrorIs(t, err, branchkey.ErrHierarchyVersion)
	require.ErrorContains(t, err, "hierarchy-version \"2\"")
}

func TestSwappedItems(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	own := map[string]string{"tenant": "42"} // the same, so that only the ID tells them apart
	a, err := s.Create(ctx, "a", own)
	require.NoError(t, err)
	b, err := s.Create(ctx, "b", own)
	require.NoError(t, err)
	stored := seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: a}), "x", nil)
	_, err = s.CreateVersion(ctx, a) // the active item serves to read its own version
	require.NoError(t, err)
	others := make(map[string]branchkey.Item)
	for _, item := range itemsOf(t, s.table, b) {
		others[strings.SplitAfter(item.Attributes["type"], ":version:")[0]] = item
	}
	store, table := newAltered(t, s)
	for _, item := range itemsOf(t, s.table, a) {
		asked := item.Attributes["type"]
		other := others[strings.SplitAfter(asked, ":version:")[0]]
		for name, alter := range map[string]func(branchkey.Item) branchkey.Item{
			"the other branch key's item": func(branchkey.Item) branchkey.Item { return other },
			"its key":                     func(item branchkey.Item) branchkey.Item { item.Enc = other.Enc; return item },
			"its item, renamed": func(item branchkey.Item) branchkey.Item {
				renamed := branchkey.Item{Attributes: maps.Clone(other.Attributes), Enc: other.Enc}
				renamed.Attributes["branch-key-id"], renamed.Attributes["type"] = a, asked
				return renamed
			},
		} {
			table.alter = func(kind string, item branchkey.Item) branchkey.Item {
				if kind == asked {
					return alter(item)
				}
				return item
			}
			require.True(t, isRefusal(refusesItem(t, store, a, asked, stored, name)), name)
		}
	}

	// The whole table under another logical name.
	wrapper, err := kmswrap.New(ctx, awskms.Config{KeyID: s.key.ARN, Endpoint: s.kms.URL})
	require.NoError(t, err)
	elsewhere := branchkey.StoreOf(s.table, wrapper, "another")
	err = elsewhere.Check(ctx, a)
	require.ErrorIs(t, err, branchkey.ErrRefused)
	require.ErrorContains(t, err, `under the logical name "another"`)
}

func TestRolledBack(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id := create(t, s.Store)
	old, err := s.table.Get(ctx, id, "branch:ACTIVE")
	require.NoError(t, err)
	_, err = s.CreateVersion(ctx, id)
	require.NoError(t, err)
	now, err := s.table.Get(ctx, id, "branch:ACTIVE")
	require.NoError(t, err)
	require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: old, Replaces: now.Enc}}))
	require.ErrorIs(t, s.Check(ctx, id), branchkey.ErrRolledBack)

	// An item of a version is gone.
	require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: now, Replaces: old.Enc}}))
	require.NoError(t, s.Check(ctx, id))
	requireNoVersion := func(want error) {
		t.Helper()
		_, err := s.CreateVersion(ctx, id)
		require.ErrorIs(t, err, want, "the active item is the last copy of its key")
		last, err := s.table.Get(ctx, id, "branch:ACTIVE")
		require.NoError(t, err)
		require.Equal(t, now, last)
	}
	version, err := s.table.Get(ctx, id, now.Attributes["version"])
	require.NoError(t, err)
	damaged := branchkey.Item{Attributes: version.Attributes, Enc: bytes.Clone(version.Enc)}
	damaged.Enc[len(damaged.Enc)-1] ^= 1
	require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: damaged, Replaces: version.Enc}}))
	requireNoVersion(branchkey.ErrRefused)
	deleteItem(t, s, id, now.Attributes["version"])
	require.ErrorIs(t, s.Check(ctx, id), branchkey.ErrIncomplete)
	requireNoVersion(branchkey.ErrIncomplete)
	deleteItem(t, s, id, "branch:ACTIVE")
	require.ErrorIs(t, s.Check(ctx, id), branchkey.ErrIncomplete)
	_, err = s.Describe(ctx, id)
	require.ErrorIs(t, err, branchkey.ErrIncomplete)
}

func TestRolledBackInAProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store, _ := newCountedStore(t)
		ctx := t.Context()
		id := create(t, store.Store)
		old, err := store.table.Get(ctx, id, "branch:ACTIVE")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = store.CreateVersion(ctx, id)
		require.NoError(t, err)
		p := newProvider(t, store.Store, branchkey.Config{BranchKeyID: id, TTL: time.Minute})
		now, err := store.table.Get(ctx, id, "branch:ACTIVE")
		require.NoError(t, err)
		require.NoError(t, store.table.Write(ctx, []branchkey.Write{{Item: old, Replaces: now.Enc}}))
		time.Sleep(time.Minute)
		_, err = p.GenerateDataKey(ctx, nil)
		require.ErrorIs(t, err, branchkey.ErrRolledBack)
		require.NoError(t, store.table.Write(ctx, []branchkey.Write{{Item: now, Replaces: old.Enc}}))
		seal(t, p, "x", nil)
	})
}

func TestEveryByteOfAnEncryptedDataKey(t *testing.T) {
	s := newTestStore(t)
	ctx := t.Context()
	id, other := create(t, s.Store), create(t, s.Store)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: id})
	pairs := map[string]string{"tenant": "42"}
	made, err := p.GenerateDataKey(ctx, pairs)
	require.NoError(t, err)
	defer made.Close()
	k := made.EncryptedKey
	changes := 0
	refused := func(name string, k header.EncryptedDataKey, size int) {
		t.Helper()
		_, err := p.UnwrapDataKey(ctx, &provider.UnwrapDataKeyRequest{EncryptedKey: k, Context: pairs, Size: size})
		require.Error(t, err, name)
		known := errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrUntrustedKey) || errors.Is(err, provider.ErrKeyNotFound)
		require.True(t, known, "%s: %v", name, err)
		changes++
	}
	for i := range k.Ciphertext {
		changed := k
		changed.Ciphertext = bytes.Clone(k.Ciphertext)
		changed.Ciphertext[i] ^= 1
		refused(fmt.Sprintf("byte %d", i), changed, 32)
		changed.Ciphertext = k.Ciphertext[:i]
		refused(fmt.Sprintf("%d bytes", i), changed, 32)
	}
	for i := range k.ProviderInfo {
		changed := k
		changed.ProviderInfo = bytes.Clone(k.ProviderInfo)
		changed.ProviderInfo[i] ^= 1
		refused(fmt.Sprintf("byte %d of the branch key ID", i), changed, 32)
	}
	for i := range len(k.ProviderID) {
		changed := k
		changed.ProviderID = k.ProviderID[:i] + string(k.ProviderID[i]^1) + k.ProviderID[i+1:]
		refused(fmt.Sprintf("byte %d of the provider", i), changed, 32)
	}
	longer := k
	longer.Ciphertext = append(bytes.Clone(k.Ciphertext), 0)
	refused("a byte more", longer, 32)
	for _, size := range []int{-1, 0, 16, 31, 33, math.MaxInt} {
		refused("another size", k, size)
	}

	// The version of another branch key, which the table has.
	_, err = s.CreateVersion(ctx, other)
	require.NoError(t, err)
	d, err := s.Describe(ctx, other)
	require.NoError(t, err)
	for _, v := range d.Versions {
		swapped := k
		version := uuid.MustParse(v.ID)
		swapped.Ciphertext = slices.Concat(k.Ciphertext[:28], version[:], k.Ciphertext[44:])
		refused("another branch key's version", swapped, 32)
		swapped.ProviderInfo = []byte(other)
		refused("another branch key's version and ID", swapped, 32)
	}
	// Another version of the same branch key.
	next, err := s.CreateVersion(ctx, id)
	require.NoError(t, err)
	swapped := k
	version := uuid.MustParse(next)
	swapped.Ciphertext = slices.Concat(k.Ciphertext[:28], version[:], k.Ciphertext[44:])
	refused("another version", swapped, 32)
	t.Logf("%d changes refused", changes)

	// A whole message, every byte of its header.
	stored := seal(t, p, "x", pairs)
	h, n, err := header.Parse(stored, header.Limits{})
	require.NoError(t, err)
	require.Equal(t, "aws-kms-hierarchy", h.EncryptedDataKeys[0].ProviderID)
	for i := range n {
		stored[i] ^= 1
		_, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{p}}).Decrypt(ctx, stored, nil)
		require.Error(t, err, "byte %d", i)
		stored[i] ^= 1
	}
}

// deleteItem deletes an item from a file, as whoever can write to the table might.
func deleteItem(t *testing.T, s *testStore, id, kind string) {
	t.Helper()
	db, err := bbolt.Open(s.path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("items")).Delete([]byte(id + "\x00" + kind)) }))
	require.NoError(t, db.Close())
}
