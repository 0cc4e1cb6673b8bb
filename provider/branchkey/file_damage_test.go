package branchkey_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider/branchkey"
)

// TestDamagedFiles changes a table's file in many ways. Each operation then succeeds, or says in
// one line what is wrong.
func TestDamagedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.db")
	table := branchkey.NewFile(path)
	require.NoError(t, table.Create(t.Context()))
	for n := range 40 {
		id := fmt.Sprintf("tenant-%d-%s", n, strings.Repeat("x", 200))
		require.NoError(t, table.Write(t.Context(), []branchkey.Write{{Item: item(id, "branch:ACTIVE", "1")}}))
	}
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	random, page := rand.New(rand.NewPCG(1, 2)), os.Getpagesize()
	var used []int // offsets of bytes that are not 0
	for i, b := range good {
		if b != 0 {
			used = append(used, i)
		}
	}
	pages := len(good) / page
	changes := []func(b []byte) []byte{
		func(b []byte) []byte { b[used[random.IntN(len(used))]] ^= 1 << random.IntN(8); return b },
		func(b []byte) []byte { return b[:random.IntN(len(b))] },
		func(b []byte) []byte { // a page in another's place
			copy(b[random.IntN(pages)*page:][:page], b[random.IntN(pages)*page:])
			return b
		},
		func(b []byte) []byte {
			values := []byte{0, 1, 2, 4, 16, 127, 128, 255}
			for range 3 {
				b[random.IntN(pages)*page+random.IntN(128)] = values[random.IntN(len(values))]
			}
			return b
		},
		func(b []byte) []byte { // a page that leads to a page above it, or to itself
			for at := 2 * page; at < len(b); at += page {
				if binary.NativeEndian.Uint16(b[at+8:]) == 1 {
					for n := range int(binary.NativeEndian.Uint16(b[at+10:])) {
						binary.NativeEndian.PutUint64(b[at+16+16*n+8:], uint64(at/page-random.IntN(2)))
					}
				}
			}
			return b
		},
	}
	refused, whole := 0, 0
	for n := range 200 {
		require.NoError(t, os.WriteFile(path, changes[n%len(changes)](bytes.Clone(good)), 0o600))
		f := branchkey.NewFile(path)
		_, getErr := f.Get(t.Context(), "tenant-7-"+strings.Repeat("x", 200), "branch:ACTIVE")
		var listErr error
		for _, err := range f.Active(t.Context()) {
			if err != nil {
				listErr = err
			}
		}
		writeErr := f.Write(t.Context(), []branchkey.Write{{Item: item(fmt.Sprint("new-", n), "branch:ACTIVE", "1")}})
		for _, err := range []error{getErr, listErr, writeErr} {
			if err != nil {
				require.NotContains(t, err.Error(), "\n")
				require.NotContains(t, err.Error(), "runtime error")
			}
		}
		if getErr == nil && listErr == nil && writeErr == nil {
			whole++
			continue
		}
		refused++
	}
	require.Positive(t, whole)
	require.Greater(t, refused, 60)
	t.Logf("of 200 damaged files %d were refused, and %d had what was damaged nowhere in use", refused, whole)
}
