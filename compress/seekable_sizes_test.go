package compress_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/internal/race"
)

// Frames of zstd-seekable don't refer to one another. So what is repeated farther away than a frame
// is stored again and again, and under zstd within its window only once.
func TestSizesOfSeekable(t *testing.T) {
	race.SkipShort(t)
	const size = 1 << 20
	random := rand.New(rand.NewPCG(1, 2))
	document := slices.Clone(mixed(8 * size)[:size])
	var versions []byte // of the document, with a few bytes changed in each 4 KiB
	for range 8 {
		versions = append(versions, document...)
		for i := 0; i < size; i += 4 << 10 {
			copy(document[i+random.IntN(4<<10-16):], "another version")
		}
	}
	for name, data := range map[string]struct {
		original    []byte
		least, most float64
	}{
		"a document of 8 MiB":        {mixed(8 * size), 1, 1.2},
		"8 versions of one of 1 MiB": {versions, 3, 9},
	} {
		t.Run(name, func(t *testing.T) {
			stored := func(format string) float64 {
				return float64(len(transform(t, newTransformer(t, format, 0), bytes.NewReader(data.original))))
			}
			zstd, seekable := stored(compress.Zstd), stored(compress.ZstdSeekable)
			t.Logf("zstd has %.1f %% of the original, and zstd-seekable %.2f times that", 100*zstd/float64(len(data.original)), seekable/zstd)
			require.Greater(t, seekable/zstd, data.least)
			require.Less(t, seekable/zstd, data.most)
		})
	}
}
