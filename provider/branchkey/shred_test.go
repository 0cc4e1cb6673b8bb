package branchkey_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/internal/kmswrap"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// age makes a branch key as if it had been disabled earlier.
func age(t testing.TB, table branchkey.Table, id string, by time.Duration) {
	t.Helper()
	for _, item := range itemsOf(t, table, id) {
		if item.Attributes["pikokms-state"] != "disabled" {
			continue
		}
		since, err := time.Parse(time.RFC3339, item.Attributes["pikokms-disabled"])
		require.NoError(t, err)
		item.Attributes["pikokms-disabled"] = since.Add(-by).Format(time.RFC3339Nano)
		require.NoError(t, table.Write(t.Context(), []branchkey.Write{{Item: item, Replaces: item.Enc}}))
	}
}

// another returns a Store of another process, which knows nothing of what this one has seen.
func (s *testStore) another(t testing.TB, table branchkey.Table) *branchkey.Store {
	t.Helper()
	wrapper, err := kmswrap.New(t.Context(), awskms.Config{KeyID: s.key.ARN, Endpoint: s.kms.URL})
	require.NoError(t, err)
	store := branchkey.StoreOf(struct{ branchkey.Table }{table}, wrapper, "")
	return store
}

// states counts the items of a branch key in each state.
func states(t testing.TB, table branchkey.Table, id string) map[string]int {
	t.Helper()
	n := make(map[string]int)
	for _, item := range itemsOf(t, table, id) {
		n[item.Attributes["pikokms-state"]]++
	}
	return n
}

// shredded is a branch key of three versions with a message under each, and another tenant's.
type shredded struct {
	*testStore
	id, other string
	messages  [][]byte
	others    []byte
}

func newShredded(t *testing.T) *shredded {
	t.Helper()
	s := &shredded{testStore: newTestStore(t)}
	for _, id := range []*string{&s.id, &s.other} {
		var err error
		*id, err = s.Create(t.Context(), fmt.Sprintf("tenant %p", id), map[string]string{"tenant": "Ada Lovelace"})
		require.NoError(t, err)
	}
	for i := range 3 {
		if i > 0 {
			_, err := s.CreateVersion(t.Context(), s.id)
			require.NoError(t, err)
		}
		s.messages = append(s.messages, seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: s.id}), fmt.Sprint(i), nil))
	}
	s.others = seal(t, newProvider(t, s.Store, branchkey.Config{BranchKeyID: s.other}), "of another", nil)
	return s
}

// fails requires that nothing can be done with the branch key, and that KMS is not asked.
func (s *shredded) fails(t *testing.T, store *branchkey.Store, sentinel error, text string) {
	t.Helper()
	calls := s.kms.Calls("")
	p := newProvider(t, store, branchkey.Config{BranchKeyID: s.id, CheckLater: true})
	for _, m := range s.messages {
		_, err := open(t.Context(), p, m)
		require.ErrorIs(t, err, sentinel)
		require.ErrorIs(t, err, provider.ErrKeyDisabled)
		require.NotErrorIs(t, err, provider.ErrKeyNotFound)
		require.NotErrorIs(t, err, branchkey.ErrDamaged)
		require.ErrorContains(t, err, fmt.Sprintf("branch key %q %s", s.id, text))
	}
	_, err := p.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, sentinel)
	require.ErrorIs(t, p.HealthCheck(t.Context()), sentinel)
	_, err = branchkey.ProviderOf(t.Context(), store, branchkey.Config{BranchKeyID: s.id, TTL: time.Hour})
	require.ErrorIs(t, err, sentinel)
	_, err = store.CreateVersion(t.Context(), s.id)
	require.ErrorIs(t, err, sentinel)
	require.Equal(t, calls, s.kms.Calls(""))
	_, err = store.Create(t.Context(), s.id, map[string]string{"tenant": "x"})
	require.ErrorIs(t, err, branchkey.ErrExists)
	require.ErrorIs(t, err, sentinel)
}

func (s *shredded) opens(t *testing.T, store *branchkey.Store) {
	t.Helper()
	p := newProvider(t, store, branchkey.Config{BranchKeyID: s.id})
	for i, m := range s.messages {
		got, err := open(t.Context(), p, m)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), got)
	}
	seal(t, p, "x", nil)
	require.NoError(t, store.Check(t.Context(), s.id))
}

// opensOthers requires that the other tenant's message opens.
func (s *shredded) opensOthers(t *testing.T, store *branchkey.Store) {
	t.Helper()
	got, err := open(t.Context(), newProvider(t, store, branchkey.Config{BranchKeyID: s.other}), s.others)
	require.NoError(t, err)
	require.Equal(t, "of another", got)
}

func TestDisableAndEnable(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	before := itemsOf(t, s.table, s.id)
	calls := s.kms.Calls("")
	d, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	require.Equal(t, calls, s.kms.Calls(""), "KMS is not asked")
	require.ErrorIs(t, d.Err, branchkey.ErrDisabled)
	require.WithinDuration(t, time.Now(), d.Disabled, time.Minute)
	require.Len(t, d.Items, 5)
	require.Empty(t, d.Behind)
	require.Len(t, d.Versions, 3)
	require.Equal(t, map[string]string{"tenant": "Ada Lovelace"}, d.Context)
	s.fails(t, s.another(t, s.table), branchkey.ErrDisabled, "is disabled since "+d.Disabled.Format(time.RFC3339))
	s.opensOthers(t, s.another(t, s.table))
	require.NoError(t, s.Check(ctx, s.id))
	again, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	require.Equal(t, d, again, "the waiting period goes on")
	for listed, err := range s.List(ctx) {
		require.NoError(t, err)
		if listed.ID == s.id {
			require.ErrorIs(t, listed.Err, branchkey.ErrDisabled)
		} else {
			require.NoError(t, listed.Err)
		}
	}
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: s.id, CheckLater: true})
	info, err := p.GetKeyInfo(ctx, "")
	require.NoError(t, err)
	require.ErrorIs(t, info.Err, branchkey.ErrDisabled)

	d, err = s.Enable(ctx, s.id)
	require.NoError(t, err)
	require.NoError(t, d.Err)
	require.Zero(t, d.Disabled)
	require.Equal(t, before, itemsOf(t, s.table, s.id), "every item is what it was")
	_, err = s.Enable(ctx, s.id)
	require.NoError(t, err)
	s.opens(t, s.Store)
	for _, operation := range []func(string) error{
		func(id string) error { _, err := s.Disable(ctx, id); return err },
		func(id string) error { _, err := s.Enable(ctx, id); return err },
		func(id string) error { _, err := s.Destroy(ctx, id, 0); return err },
	} {
		require.ErrorIs(t, operation("none"), provider.ErrKeyNotFound)
	}
}

func TestDestroy(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	var secrets []string
	for _, item := range itemsOf(t, s.table, s.id) {
		secrets = append(secrets, base64.StdEncoding.EncodeToString(item.Enc))
	}
	_, err := s.Destroy(ctx, s.id, branchkey.MinWait-1)
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	_, err = s.Destroy(ctx, s.id, 0)
	require.ErrorIs(t, err, branchkey.ErrNotDisabled)
	_, err = s.Disable(ctx, s.id)
	require.NoError(t, err)
	age(t, s.table, s.id, 2*24*time.Hour)
	_, err = s.Destroy(ctx, s.id, 0)
	require.ErrorIs(t, err, branchkey.ErrTooEarly)
	_, err = s.Enable(ctx, s.id)
	require.NoError(t, err)
	_, err = s.Disable(ctx, s.id)
	require.NoError(t, err)
	_, err = s.Destroy(ctx, s.id, branchkey.MinWait)
	require.ErrorIs(t, err, branchkey.ErrTooEarly, "enabling ends the waiting period")
	age(t, s.table, s.id, 30*time.Hour)
	// A transaction that was killed leaves pages that the list of free ones does not have.
	killed, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = killed.Write(bytes.Repeat([]byte(fmt.Sprintf("%-1024s", secrets[0])), 256))
	require.NoError(t, err)
	require.NoError(t, killed.Close())
	calls := s.kms.Calls("")
	d, err := s.Destroy(ctx, s.id, branchkey.MinWait)
	require.NoError(t, err)
	require.Equal(t, calls, s.kms.Calls(""), "KMS is not asked")
	require.ErrorIs(t, d.Err, branchkey.ErrDestroyed)
	require.WithinDuration(t, time.Now(), d.Destroyed, time.Minute)
	require.WithinDuration(t, time.Now().Add(-30*time.Hour), d.Disabled, time.Minute)
	require.Len(t, d.Versions, 3)
	require.Equal(t, d.Active, d.Versions[2])
	require.Equal(t, s.key.ARN, d.Active.KeyARN)
	require.Len(t, d.Items, 5)
	require.Empty(t, d.Context, "it may name a person")
	require.Equal(t, map[string]int{"destroyed": 5}, states(t, s.table, s.id))

	text := "was destroyed on " + d.Destroyed.Format(time.RFC3339)
	s.fails(t, s.another(t, s.table), branchkey.ErrDestroyed, text)
	s.fails(t, s.Store, branchkey.ErrDestroyed, text)
	s.opensOthers(t, s.another(t, s.table))
	_, err = s.Enable(ctx, s.id)
	require.ErrorIs(t, err, branchkey.ErrDestroyed)
	_, err = s.Disable(ctx, s.id)
	require.ErrorIs(t, err, branchkey.ErrDestroyed)
	require.ErrorIs(t, s.Move(ctx, s.id, nil), branchkey.ErrDestroyed)
	require.NoError(t, s.Check(ctx, s.id))
	require.NoError(t, s.Check(ctx, s.other))
	again, err := s.Destroy(ctx, s.id, 0)
	require.NoError(t, err)
	require.Equal(t, d, again)
	described, err := s.Describe(ctx, s.id)
	require.NoError(t, err)
	require.Equal(t, d, described)
	p := newProvider(t, s.Store, branchkey.Config{BranchKeyID: s.id, CheckLater: true})
	info, err := p.GetKeyInfo(ctx, "")
	require.NoError(t, err)
	require.ErrorIs(t, info.Err, branchkey.ErrDestroyed)

	file, err := os.ReadFile(s.path)
	require.NoError(t, err)
	for _, secret := range secrets {
		require.False(t, bytes.Contains(file, []byte(secret)), "the file has no wrapped key in its free pages")
	}
	kept := itemsOf(t, s.table, s.other)[0].Enc
	require.True(t, bytes.Contains(file, []byte(base64.StdEncoding.EncodeToString(kept))), "the search finds a wrapped key that is there")
}

// TestMoveOfADisabledBranchKey moves a disabled branch key, since the old KMS key may be deleted
// before somebody enables it.
func TestMoveOfADisabledBranchKey(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	disabled, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	next := s.kms.CreateKey(kmstest.Key{})
	to := s.open(t, awskms.Config{KeyID: next.ARN, TrustedKeys: []string{s.key.ARN}})
	require.NoError(t, to.Move(ctx, s.id, nil))
	require.NoError(t, to.Check(ctx, s.id))
	moved, err := to.Describe(ctx, s.id)
	require.NoError(t, err)
	require.Equal(t, disabled.Disabled, moved.Disabled)
	require.ErrorIs(t, moved.Err, branchkey.ErrDisabled)
	require.Equal(t, next.ARN, moved.Active.KeyARN)
	s.kms.SetState(s.key.ARN, "Disabled")
	alone := s.open(t, awskms.Config{KeyID: next.ARN})
	_, err = alone.Enable(ctx, s.id)
	require.NoError(t, err)
	s.opens(t, alone)
}

// interrupted is a table of a process that is killed at a write, before or after that is done.
type interrupted struct {
	branchkey.Table
	works int
	after bool
}

var errKilled = errors.New("killed")

func (i *interrupted) Write(ctx context.Context, writes []branchkey.Write) error {
	i.works--
	if i.works >= 0 {
		return i.Table.Write(ctx, writes)
	}
	if i.after && i.works == -1 {
		if err := i.Table.Write(ctx, writes); err != nil {
			return err
		}
	}
	return errKilled
}

// TestShreddingKilledAtEachWrite kills disabling, enabling and destroying of a branch key of more
// items than two transactions take, at each of their writes, and goes on in another process.
func TestShreddingKilledAtEachWrite(t *testing.T) {
	race.SkipShort(t)
	s := newShredded(t)
	ctx := t.Context()
	for range 220 {
		_, err := s.CreateVersion(ctx, s.id)
		require.NoError(t, err)
	}
	items := len(itemsOf(t, s.table, s.id))
	before := itemsOf(t, s.table, s.id)
	const transactions = 3
	// killed does something in a process that is killed at the given write.
	killed := func(at int, after bool, do func(*branchkey.Store) error) map[string]int {
		t.Helper()
		require.ErrorIs(t, do(s.another(t, &interrupted{s.table, at, after})), errKilled)
		return states(t, s.table, s.id)
	}
	disable := func(store *branchkey.Store) error { _, err := store.Disable(ctx, s.id); return err }
	enable := func(store *branchkey.Store) error { _, err := store.Enable(ctx, s.id); return err }
	destroy := func(store *branchkey.Store) error { _, err := store.Destroy(ctx, s.id, 0); return err }
	for at := range transactions {
		for _, after := range []bool{false, true} {
			begun := at > 0 || after
			now := killed(at, after, disable)
			t.Logf("disabling, killed at write %d, done: %v: %v", at, after, now)
			if begun {
				require.NotZero(t, now["disabled"])
				_, err := s.another(t, s.table).CreateVersion(ctx, s.id)
				require.ErrorIs(t, err, branchkey.ErrDisabled, "the active version is the first")
				if now["disabled"] < items {
					age(t, s.table, s.id, 8*24*time.Hour)
					require.ErrorIs(t, destroy(s.another(t, s.table)), branchkey.ErrNotDisabled)
					require.ErrorIs(t, s.another(t, s.table).Check(ctx, s.id), branchkey.ErrIncomplete)
				}
			}
			require.NoError(t, disable(s.another(t, s.table)))
			require.Equal(t, map[string]int{"disabled": items}, states(t, s.table, s.id))
			if begun && at < transactions-1 {
				require.ErrorIs(t, destroy(s.another(t, s.table)), branchkey.ErrTooEarly, "the last item counts")
			}

			now = killed(at, after, enable)
			t.Logf("enabling, killed at write %d, done: %v: %v", at, after, now)
			if !after || at < transactions-1 {
				_, err := s.another(t, s.table).CreateVersion(ctx, s.id)
				require.ErrorIs(t, err, branchkey.ErrDisabled, "the active version is the last")
			}
			if at == 1 { // the other way is open, too
				require.NoError(t, disable(s.another(t, s.table)))
				require.Equal(t, map[string]int{"disabled": items}, states(t, s.table, s.id))
			}
			require.NoError(t, enable(s.another(t, s.table)))
			require.Equal(t, before, itemsOf(t, s.table, s.id))
		}
	}
	s.opens(t, s.another(t, s.table))
	aside := func() {
		require.NoError(t, disable(s.another(t, s.table)))
		age(t, s.table, s.id, 8*24*time.Hour)
	}
	aside()
	asideItems := itemsOf(t, s.table, s.id)
	for at := range transactions {
		for _, after := range []bool{false, true} {
			now := killed(at, after, destroy)
			t.Logf("destroying, killed at write %d, done: %v: %v", at, after, now)
			if at == 0 && !after {
				require.Equal(t, map[string]int{"disabled": items}, now)
				require.NoError(t, enable(s.another(t, s.table)), "nothing was destroyed")
				aside()
				asideItems = itemsOf(t, s.table, s.id)
				continue
			}
			require.NotZero(t, now["destroyed"])
			for _, refused := range []func(*branchkey.Store) error{disable, enable} {
				require.ErrorIs(t, refused(s.another(t, s.table)), branchkey.ErrDestroyed, "there is no way back")
			}
			d, err := s.another(t, s.table).Describe(ctx, s.id)
			require.NoError(t, err)
			require.ErrorIs(t, d.Err, branchkey.ErrDestroyed)
			require.Len(t, d.Behind, now["disabled"])
			if now["disabled"] > 0 {
				require.ErrorIs(t, s.another(t, s.table).Check(ctx, s.id), branchkey.ErrDestroyed)
			}
			require.NoError(t, destroy(s.another(t, s.table)))
			require.Equal(t, map[string]int{"destroyed": items}, states(t, s.table, s.id))
			s.fails(t, s.another(t, s.table), branchkey.ErrDestroyed, "was destroyed on ")
			s.opensOthers(t, s.another(t, s.table))
			restore(t, s.table, asideItems)
		}
	}
}

// restore puts items into a table, whatever it has now.
func restore(t testing.TB, table branchkey.Table, items []branchkey.Item) {
	t.Helper()
	for _, item := range items {
		now, err := table.Get(t.Context(), item.Attributes["branch-key-id"], item.Attributes["type"])
		require.NoError(t, err)
		require.NoError(t, table.Write(t.Context(), []branchkey.Write{{Item: item, Replaces: now.Enc}}))
	}
}

// beforeWrite is a table in which somebody else does something before a write.
type beforeWrite struct {
	branchkey.Table
	at int
	do func()
}

func (b *beforeWrite) Write(ctx context.Context, writes []branchkey.Write) error {
	if b.at--; b.at == -1 {
		b.do()
	}
	return b.Table.Write(ctx, writes)
}

// TestTwoAdministrators has another administrator do something before each write of a first one.
func TestTwoAdministrators(t *testing.T) {
	race.SkipShort(t)
	type operation struct {
		name string
		do   func(context.Context, *branchkey.Store, string) error
	}
	disable := operation{"disable", func(ctx context.Context, s *branchkey.Store, id string) error {
		_, err := s.Disable(ctx, id)
		return err
	}}
	enable := operation{"enable", func(ctx context.Context, s *branchkey.Store, id string) error {
		_, err := s.Enable(ctx, id)
		return err
	}}
	destroy := operation{"destroy", func(ctx context.Context, s *branchkey.Store, id string) error {
		_, err := s.Destroy(ctx, id, 0)
		return err
	}}
	version := operation{"version", func(ctx context.Context, s *branchkey.Store, id string) error {
		_, err := s.CreateVersion(ctx, id)
		return err
	}}
	move := operation{"move", func(ctx context.Context, s *branchkey.Store, id string) error { return s.Move(ctx, id, nil) }}
	template := newTestStore(t)
	ctx := t.Context()
	const versions = 105 // of which a transaction does not take all
	id := create(t, template.Store)
	for range versions {
		_, err := template.CreateVersion(ctx, id)
		require.NoError(t, err)
	}
	file, err := os.ReadFile(template.path)
	require.NoError(t, err)
	next := template.kms.CreateKey(kmstest.Key{})
	wrapper, err := kmswrap.New(ctx, awskms.Config{KeyID: next.ARN, TrustedKeys: []string{template.key.ARN}, Endpoint: template.kms.URL})
	require.NoError(t, err)
	storeOf := func(table branchkey.Table, o operation) *branchkey.Store {
		if o.name != "move" {
			return template.another(t, table)
		}
		store := branchkey.StoreOf(struct{ branchkey.Table }{table}, wrapper, "")
		return store
	}
	count := 0
	for _, first := range []operation{disable, enable, destroy, version, move} {
		for _, second := range []operation{disable, enable, destroy, version, move} {
			for at := range 2 {
				name := fmt.Sprintf("%s with %s before write %d", first.name, second.name, at)
				path := filepath.Join(t.TempDir(), "keys.db")
				require.NoError(t, os.WriteFile(path, file, 0o600))
				s := &testStore{kms: template.kms, key: template.key, table: branchkey.NewFile(path), path: path}
				if first.name == "enable" || first.name == "destroy" || second.name == "enable" || second.name == "destroy" {
					require.NoError(t, disable.do(ctx, s.another(t, s.table), id))
					age(t, s.table, id, 8*24*time.Hour)
				}
				var theirs error
				done := false
				table := &beforeWrite{s.table, at, func() {
					done = true
					theirs = second.do(ctx, storeOf(s.table, second), id)
				}}
				ours := first.do(ctx, storeOf(table, first), id)
				if !done {
					continue // it does not write so often
				}
				count++
				after := states(t, s.table, id)
				total := 0
				for _, n := range after {
					total += n
				}
				t.Logf("%s: %v; %v; %v", name, after, ours, theirs)
				if theirs == nil && ours == nil && (second.name == "version" || first.name == "version") {
					require.Equal(t, versions+4, total, "%s: a version that was made stays", name)
				}
				switch {
				case after["destroyed"] > 0:
					require.True(t, first.name == "destroy" && ours == nil || second.name == "destroy" && theirs == nil, name)
					require.Equal(t, map[string]int{"destroyed": total}, after, name)
				case second.name == "destroy":
					require.Error(t, theirs, name)
				case first.name == "destroy":
					require.Error(t, ours, name)
				}
				// Whoever got no error has what they asked for, unless the other one undid it on
				// purpose, after they had finished.
				if theirs == nil && second.name == "enable" && ours == nil {
					require.NotEqual(t, "destroy", first.name, name)
				}
				if ours == nil && first.name == "enable" {
					require.Equal(t, map[string]int{"": total}, after, name)
				}
				if ours == nil && first.name == "disable" {
					require.Equal(t, map[string]int{"disabled": total}, after, name)
				}
				// The branch key can be brought into one state by one more call, and is whole then.
				if after["destroyed"] == 0 {
					require.NoError(t, enable.do(ctx, s.another(t, s.table), id), name)
					require.NoError(t, storeOf(s.table, move).Move(ctx, id, nil), name)
					require.NoError(t, storeOf(s.table, move).Check(ctx, id), name)
				}
			}
		}
	}
	// A branch key that somebody enables while it is being disabled is left enabled.
	path := filepath.Join(t.TempDir(), "keys.db")
	require.NoError(t, os.WriteFile(path, file, 0o600))
	s := &testStore{kms: template.kms, key: template.key, table: branchkey.NewFile(path), path: path}
	enabling := &beforeWrite{s.table, 1, func() { require.NoError(t, enable.do(ctx, s.another(t, s.table), id)) }}
	require.ErrorIs(t, disable.do(ctx, s.another(t, enabling), id), branchkey.ErrConflict)
	require.Equal(t, map[string]int{"": versions + 3}, states(t, s.table, id))
	t.Logf("%d cases", count)
	require.GreaterOrEqual(t, count, 30)
}

// TestManyAdministratorsShred lets several administrators do everything at the same time. No
// version that somebody made is lost, and if one destroys the branch key, it stays destroyed.
func TestManyAdministratorsShred(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	var all sync.WaitGroup
	var mu sync.Mutex
	made := 0
	var destroyed atomic.Bool
	for i := range 8 {
		all.Go(func() {
			store := s.another(t, s.table)
			for range 4 {
				var err error
				switch i % 4 {
				case 0:
					_, err = store.Disable(ctx, s.id)
				case 1:
					_, err = store.Enable(ctx, s.id)
				case 2:
					if _, err = store.CreateVersion(ctx, s.id); err == nil {
						mu.Lock()
						made++
						mu.Unlock()
					}
				case 3:
					if _, err = store.Destroy(ctx, s.id, 0); err == nil {
						destroyed.Store(true)
					}
				}
				if err != nil && !errors.Is(err, branchkey.ErrConflict) && !errors.Is(err, branchkey.ErrDisabled) &&
					!errors.Is(err, branchkey.ErrNotDisabled) && !errors.Is(err, branchkey.ErrTooEarly) {
					t.Errorf("administrator %d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	require.False(t, destroyed.Load(), "nobody waited")
	_, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	d, err := s.Enable(ctx, s.id)
	require.NoError(t, err)
	require.Len(t, d.Versions, 3+made)
	s.opens(t, s.another(t, s.table))
}

// TestCachedWhileDestroyed has a process that cached versions of a branch key before that was
// destroyed. It goes on for its TTL, and no longer. What it notices once it forgets at once.
func TestCachedWhileDestroyed(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	store := s.another(t, s.table)
	const ttl = 2 * time.Second
	short := newProvider(t, store, branchkey.Config{BranchKeyID: s.id, TTL: ttl})
	long := newProvider(t, store, branchkey.Config{BranchKeyID: s.id, TTL: time.Hour})
	for _, p := range []*branchkey.Provider{short, long} {
		_, err := open(ctx, p, s.messages[0])
		require.NoError(t, err)
	}
	begin := time.Now()
	_, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	age(t, s.table, s.id, 8*24*time.Hour)
	_, err = s.Destroy(ctx, s.id, 0)
	require.NoError(t, err)
	_, err = open(ctx, short, s.messages[0])
	if time.Since(begin) < ttl/2 {
		require.NoError(t, err, "it is cached")
	}
	require.Eventually(t, func() bool {
		_, err := open(ctx, short, s.messages[0])
		return errors.Is(err, branchkey.ErrDestroyed)
	}, time.Minute, 50*time.Millisecond)

	_, err = open(ctx, long, s.messages[0])
	require.NoError(t, err, "it is cached")
	_, err = open(ctx, long, s.messages[1])
	require.ErrorIs(t, err, branchkey.ErrDestroyed, "it is not cached")
	_, err = open(ctx, long, s.messages[0])
	require.ErrorIs(t, err, branchkey.ErrDestroyed, "the process knows by now")
}

// TestPutBackAfterDestroy puts back items that were destroyed. A process that has seen that they
// were refuses them; another one can't know, as long as no tombstone is left.
func TestPutBackAfterDestroy(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	before := itemsOf(t, s.table, s.id)
	_, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	age(t, s.table, s.id, 8*24*time.Hour)
	_, err = s.Destroy(ctx, s.id, 0)
	require.NoError(t, err)
	witness := s.another(t, s.table)
	s.fails(t, witness, branchkey.ErrDestroyed, "was destroyed on ")

	restore(t, s.table, before[:1])
	require.ErrorIs(t, s.another(t, s.table).Check(ctx, s.id), branchkey.ErrRolledBack)
	_, err = s.another(t, s.table).Enable(ctx, s.id)
	require.ErrorIs(t, err, branchkey.ErrDestroyed)
	d, err := s.another(t, s.table).Destroy(ctx, s.id, 0)
	require.NoError(t, err, "it does not wait again")
	require.Empty(t, d.Behind)
	require.Equal(t, map[string]int{"destroyed": len(before)}, states(t, s.table, s.id))

	restore(t, s.table, before)
	p := newProvider(t, witness, branchkey.Config{BranchKeyID: s.id, CheckLater: true})
	for _, m := range s.messages {
		_, err := open(ctx, p, m)
		require.ErrorIs(t, err, branchkey.ErrDestroyed)
		require.ErrorIs(t, err, branchkey.ErrRolledBack)
	}
	for name, operation := range map[string]func() error{
		"encrypt": func() error { _, err := p.GenerateDataKey(ctx, nil); return err },
		"version": func() error { _, err := witness.CreateVersion(ctx, s.id); return err },
		"move":    func() error { return witness.Move(ctx, s.id, nil) },
		"enable":  func() error { _, err := witness.Enable(ctx, s.id); return err },
		"create": func() error {
			_, err := witness.Create(ctx, s.id, map[string]string{"tenant": "x"})
			return err
		},
	} {
		require.ErrorIs(t, operation(), branchkey.ErrDestroyed, name)
	}
	s.opens(t, s.another(t, s.table))
}

// TestDamagedBranchKeyIsNotShredded writes nothing if one of the items is not what it should be.
func TestDamagedBranchKeyIsNotShredded(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	disabled, err := s.Disable(ctx, s.id)
	require.NoError(t, err)
	require.NotNil(t, disabled)
	good := itemsOf(t, s.table, s.id)
	age(t, s.table, s.id, 8*24*time.Hour)
	for name, damage := range map[string]func(a map[string]string){
		"another state":  func(a map[string]string) { a["pikokms-state"] = "gone" },
		"no time":        func(a map[string]string) { delete(a, "pikokms-disabled") },
		"no item in it":  func(a map[string]string) { a["pikokms-item"] = "x" },
		"another's item": func(a map[string]string) { a["pikokms-item"] = good[len(good)-1].Attributes["pikokms-item"] },
	} {
		items := itemsOf(t, s.table, s.id)
		item := items[0]
		damage(item.Attributes)
		require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: item, Replaces: item.Enc}}))
		before := itemsOf(t, s.table, s.id)
		for _, operation := range []func(context.Context, string) (*branchkey.Description, error){
			s.Disable, s.Enable, func(ctx context.Context, id string) (*branchkey.Description, error) { return s.Destroy(ctx, id, 0) },
		} {
			_, err := operation(ctx, s.id)
			require.ErrorIs(t, err, branchkey.ErrDamaged, name)
		}
		require.Equal(t, before, itemsOf(t, s.table, s.id))
		restore(t, s.table, good)
		age(t, s.table, s.id, 8*24*time.Hour)
	}
	_, err = s.Destroy(ctx, s.id, 0)
	require.NoError(t, err)
}

// TestClockOfDynamoDB measures the waiting period by DynamoDB's clock, and not by the computer's.
func TestClockOfDynamoDB(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	target, err := url.Parse(emulator.Moto(t))
	require.NoError(t, err)
	var ahead atomic.Int64 // the time.Duration by which DynamoDB's clock is ahead
	var undated atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(time.Duration(ahead.Load())).UTC().Format(http.TimeFormat))
		if undated.Load() {
			r.Header.Set("Date", "today")
		}
		return nil
	}
	endpoint := httptest.NewServer(proxy)
	defer endpoint.Close()
	table, err := branchkey.NewDynamoDB(t.Context(), branchkey.Config{
		Table: fmt.Sprintf("keys-%d", time.Now().UnixNano()),
		TableClient: dynamodb.New(dynamodb.Options{
			Region: emulator.Region, BaseEndpoint: aws.String(endpoint.URL), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		}),
	})
	require.NoError(t, err)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	wrapper, err := kmswrap.New(t.Context(), awskms.Config{KeyID: key.ARN, Endpoint: server.URL})
	require.NoError(t, err)
	store := branchkey.StoreOf(table, wrapper, "")
	ctx := t.Context()
	require.NoError(t, store.CreateTable(ctx))
	id := create(t, store)
	const month = 30 * 24 * time.Hour
	ahead.Store(int64(month))
	d, err := store.Disable(ctx, id)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(month), d.Disabled, time.Minute)
	ahead.Store(int64(month + branchkey.DefaultWait - time.Hour))
	_, err = store.Destroy(ctx, id, 0)
	require.ErrorIs(t, err, branchkey.ErrTooEarly)
	ahead.Store(0)
	_, err = store.Destroy(ctx, id, 0)
	require.ErrorIs(t, err, branchkey.ErrTooEarly)
	ahead.Store(int64(month + branchkey.DefaultWait + time.Minute))
	undated.Store(true)
	_, err = store.Destroy(ctx, id, 0)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable, "without a time nothing is destroyed")
	undated.Store(false)
	d, err = store.Destroy(ctx, id, 0)
	require.NoError(t, err)
	require.ErrorIs(t, d.Err, branchkey.ErrDestroyed)
	_, err = store.Create(ctx, id, map[string]string{"tenant": "x"})
	require.ErrorIs(t, err, branchkey.ErrDestroyed)
}

// TestActiveItemThatAWSOverwrites has the active item come back after disabling, as AWS's library
// writes it if it had begun to make a version before. The branch key must be disabled again.
func TestActiveItemThatAWSOverwrites(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	active, err := s.table.Get(ctx, s.id, "branch:ACTIVE")
	require.NoError(t, err)
	_, err = s.Disable(ctx, s.id)
	require.NoError(t, err)
	age(t, s.table, s.id, 8*24*time.Hour)
	restore(t, s.table, []branchkey.Item{active})
	d, err := s.Describe(ctx, s.id)
	require.NoError(t, err)
	require.NoError(t, d.Err)
	require.Len(t, d.Behind, 4)
	require.ErrorIs(t, s.Check(ctx, s.id), branchkey.ErrIncomplete)
	_, err = s.Destroy(ctx, s.id, 0)
	require.ErrorIs(t, err, branchkey.ErrNotDisabled)
	_, err = s.Disable(ctx, s.id)
	require.NoError(t, err)
	_, err = s.Destroy(ctx, s.id, 0)
	require.ErrorIs(t, err, branchkey.ErrTooEarly)
	_, err = s.Enable(ctx, s.id)
	require.NoError(t, err)
	s.opens(t, s.Store)
}

// TestWayOutOfADamagedBranchKey destroys a branch key of which an item is damaged and lost, as the
// error says. Without an active item, what is left is to be deleted.
func TestWayOutOfADamagedBranchKey(t *testing.T) {
	s := newShredded(t)
	ctx := t.Context()
	remove := func(id, kind string) {
		t.Helper()
		db, err := bbolt.Open(s.path, 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("items")).Delete([]byte(id + "\x00" + kind)) }))
		require.NoError(t, db.Close())
	}
	item := itemsOf(t, s.table, s.id)[2]
	delete(item.Attributes, "create-time")
	require.NoError(t, s.table.Write(ctx, []branchkey.Write{{Item: item, Replaces: item.Enc}}))
	kind := item.Attributes["type"]
	d, err := s.Describe(ctx, s.id)
	require.NotNil(t, d)
	_, disabling := s.Disable(ctx, s.id)
	for _, err := range []error{err, disabling} {
		require.ErrorIs(t, err, branchkey.ErrDamaged)
		require.ErrorContains(t, err, fmt.Sprintf("%q", kind))
		require.ErrorContains(t, err, "or delete these items from the table, and the rest can be disabled and destroyed")
	}
	remove(s.id, kind)
	_, err = s.Disable(ctx, s.id)
	require.NoError(t, err)
	age(t, s.table, s.id, 8*24*time.Hour)
	d, err = s.Destroy(ctx, s.id, 0)
	require.NoError(t, err)
	require.Len(t, d.Items, 4)
	s.fails(t, s.another(t, s.table), branchkey.ErrDestroyed, "was destroyed on ")

	remove(s.other, "branch:ACTIVE")
	_, err = s.Describe(ctx, s.other)
	_, disabling = s.Disable(ctx, s.other)
	for _, err := range []error{err, disabling} {
		require.ErrorIs(t, err, branchkey.ErrIncomplete)
		require.ErrorContains(t, err, "or delete its other items from the table, which destroys it without a tombstone")
	}
	for _, item := range itemsOf(t, s.table, s.other) {
		remove(s.other, item.Attributes["type"])
	}
	_, err = s.Describe(ctx, s.other)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
}
