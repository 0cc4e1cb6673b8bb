package branchkey_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

func TestFile(t *testing.T) {
	testTable(t, branchkey.NewFile(filepath.Join(t.TempDir(), "keys.db")))
}

// What stands where the table should be is not changed, and the error says what it is.
func TestFilesThatAreNoTable(t *testing.T) {
	table := filepath.Join(t.TempDir(), "keys.db")
	require.NoError(t, branchkey.NewFile(table).Create(t.Context()))
	require.NoError(t, branchkey.NewFile(table).Write(t.Context(), []branchkey.Write{{Item: item("a", "branch:ACTIVE", "1")}}))
	whole, err := os.ReadFile(table)
	require.NoError(t, err)
	page := os.Getpagesize()
	overwritten := append([]byte(nil), whole...)
	for i := 2 * page; i < len(overwritten); i++ {
		overwritten[i] = 0xff
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(other, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("other"))
		return err
	}))
	require.NoError(t, db.Close())
	of, err := os.ReadFile(other)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"text":        {[]byte("text"), "it is no database"},
		"noise":       {bytes.Repeat([]byte("noise"), 10_000), "it is no database"},
		"other.db":    {of, "it is a database of something else"},
		"overwritten": {overwritten, "its pages are damaged"},
		"cut":         {whole[:2*page], "its pages are damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && name == "cut" {
				t.Skip("Windows makes the file longer again")
			}
			path := filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(path, c.content, 0o600))
			f := branchkey.NewFile(path)
			_, err := f.Get(t.Context(), "a", "branch:ACTIVE")
			require.ErrorIs(t, err, provider.ErrInvalidKey)
			require.ErrorContains(t, err, name+" is no table of branch keys: "+c.says)
			for _, err := range f.Active(t.Context()) {
				require.ErrorIs(t, err, provider.ErrInvalidKey)
				require.NotErrorIs(t, err, branchkey.ErrDamaged, "it is not about one item")
			}
			require.ErrorIs(t, f.Create(t.Context()), provider.ErrInvalidKey)
			require.ErrorIs(t, f.Write(t.Context(), []branchkey.Write{{Item: item("a", "branch:ACTIVE", "1")}}), provider.ErrInvalidKey)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(c.content, now))
		})
	}
	t.Run("folder", func(t *testing.T) {
		_, err := branchkey.NewFile(t.TempDir()).Get(t.Context(), "a", "branch:ACTIVE")
		require.ErrorContains(t, err, "is no table of branch keys: it is a folder")
	})
	t.Run("empty file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "empty")
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		f := branchkey.NewFile(path)
		_, err := f.Get(t.Context(), "a", "branch:ACTIVE")
		require.ErrorIs(t, err, branchkey.ErrNoTable)
		require.NoError(t, f.Create(t.Context()))
	})
}

func TestDynamoDB(t *testing.T) {
	table, _ := newMotoTable(t)
	testTable(t, table)
}

// testTable checks what every Table does.
func testTable(t *testing.T, table branchkey.Table) {
	ctx := t.Context()
	_, err := table.Get(ctx, "a", "branch:ACTIVE")
	require.ErrorIs(t, err, branchkey.ErrNoTable)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.ErrorIs(t, table.Write(ctx, []branchkey.Write{{Item: item("a", "x", "1")}}), branchkey.ErrNoTable)
	require.NoError(t, table.Create(ctx))
	require.NoError(t, table.Create(ctx), "a second time")

	_, err = table.Get(ctx, "a", "branch:ACTIVE")
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	require.NotErrorIs(t, err, branchkey.ErrNoTable)
	all := itemsOf(t, table, "a")
	require.Empty(t, all)

	first := []branchkey.Write{{Item: item("a", "branch:ACTIVE", "1")}, {Item: item("a", "branch:version:1", "1")}, {Item: item("b", "branch:ACTIVE", "1")}}
	require.NoError(t, table.Write(ctx, first))
	got, err := table.Get(ctx, "a", "branch:ACTIVE")
	require.NoError(t, err)
	require.Equal(t, first[0].Item, got)

	// If one condition is not met, nothing is written.
	for name, second := range map[string]branchkey.Write{
		"there is one":    {Item: item("b", "branch:ACTIVE", "2")},
		"it has another":  {Item: item("b", "branch:ACTIVE", "2"), Replaces: []byte("0")},
		"there is none":   {Item: item("c", "branch:ACTIVE", "2"), Replaces: []byte("1")},
		"not even of one": {Item: item("a", "branch:version:1", "2"), Replaces: []byte("11")},
	} {
		err := table.Write(ctx, []branchkey.Write{{Item: item("a", "branch:ACTIVE", "2"), Replaces: []byte("1")}, second})
		require.ErrorIs(t, err, branchkey.ErrConflict, name)
	}
	got, err = table.Get(ctx, "a", "branch:ACTIVE")
	require.NoError(t, err)
	require.Equal(t, "1", string(got.Enc))
	require.NoError(t, table.Write(ctx, []branchkey.Write{{Item: item("a", "branch:ACTIVE", "2"), Replaces: []byte("1")}}))

	all = itemsOf(t, table, "a")
	require.ElementsMatch(t, []branchkey.Item{item("a", "branch:ACTIVE", "2"), first[1].Item}, all)
	var active []branchkey.Item
	for item, err := range table.Active(ctx) {
		require.NoError(t, err)
		active = append(active, item)
	}
	require.ElementsMatch(t, []branchkey.Item{item("a", "branch:ACTIVE", "2"), item("b", "branch:ACTIVE", "1")}, active)

	// Many, larger than one page of an answer (1 MB) of DynamoDB.
	var many []branchkey.Write
	for i := range 60 {
		many = append(many, branchkey.Write{Item: item("many", fmt.Sprintf("branch:version:%03d", i), "1")})
		many[i].Item.Enc = bytes.Repeat([]byte{'k'}, 20_000)
	}
	require.NoError(t, table.Write(ctx, many))
	all = itemsOf(t, table, "many")
	require.Len(t, all, 60)
	for range table.Active(ctx) {
		break // leaves nothing open
	}
}

func item(id, kind, enc string) branchkey.Item {
	return branchkey.Item{
		Attributes: map[string]string{
			"branch-key-id": id, "type": kind, "hierarchy-version": "1", "create-time": "2026-01-01T00:00:00.000000Z",
			"kms-arn": "arn:aws:kms:eu-west-1:111122223333:key/1", "aws-crypto-ec:tenant": "α",
		},
		Enc: []byte(enc),
	}
}
