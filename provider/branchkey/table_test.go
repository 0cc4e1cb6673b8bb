package branchkey_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
)

func TestFile(t *testing.T) {
	testTable(t, branchkey.NewFile(filepath.Join(t.TempDir(), "keys.db")))
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
