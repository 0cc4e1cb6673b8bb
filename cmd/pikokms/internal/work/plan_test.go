package work

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/internal/race"
)

func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Plan{Places: []*places.Place{{Name: "a", Path: "a"}, {Name: "b", Path: "b"}}}
		n := rapid.IntRange(0, 2500).Draw(t, "n")
		seed := rapid.StringMatching(`[a-z/]{0,20}`).Draw(t, "seed")
		var want []Item
		for i := range n {
			key, size := fmt.Sprintf("%s%d/%x", seed, i/7, i*i), int64(i%9-1)
			p.add(i%2, key, size)
			want = append(want, Item{place: p.Places[i%2], Key: key, Index: int64(i), Size: size})
		}
		loaded := &Plan{Places: p.Places}
		require.NoError(t, loaded.load(p.blocks))
		require.Equal(t, [2]int64{p.Objects, p.bytes}, [2]int64{loaded.Objects, loaded.bytes})
		var got []Item
		for i := range loaded.All() {
			got = append(got, i)
		}
		require.Equal(t, want, got)
	})
}

func FuzzPlan(f *testing.F) {
	p := &Plan{Places: []*places.Place{{Name: "a"}}}
	p.add(0, "photos/a.jpg", 1)
	p.add(0, "photos/b.jpg", -1)
	f.Add(p.blocks[0])
	f.Fuzz(func(t *testing.T, block []byte) {
		loaded := &Plan{Places: p.Places}
		if loaded.load([][]byte{block}) != nil {
			return
		}
		n := int64(0)
		for range loaded.All() {
			n++
		}
		require.Equal(t, loaded.Objects, n)
	})
}

// A million names take little memory.
func TestAPlanIsSmall(t *testing.T) {
	race.SkipShort(t)
	p := &Plan{Places: []*places.Place{{Name: "bucket"}}}
	for i := range 1_000_000 {
		p.add(0, fmt.Sprintf("backups/2026/%02d/%02d/customer-%06d/%08x.parquet", i/90_000, i/3_000%30, i/7, i*2654435761), 1<<20)
	}
	size := 0
	for _, b := range p.blocks {
		size += cap(b)
	}
	t.Logf("%.1f MiB", float64(size)/(1<<20))
	require.Less(t, size, 64<<20)
}
