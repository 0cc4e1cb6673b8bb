package transfer_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/transfer"
)

// The parts of an object of any size that S3 takes, with what encryption adds, are at most 10,000.
func TestObjectsHaveNoMorePartsThanS3Takes(t *testing.T) {
	for _, n := range []int64{-1, 0, 1 << 20, 48 << 30, 77 << 30, 82 << 30, 1 << 40, 5 << 40} {
		part := int64(transfer.PartSize(n))
		if part == 0 {
			part = 8 << 20
		}
		stored := n + n/1000 + 1<<20 // more than frames and a header add
		require.LessOrEqual(t, (stored+part-1)/part, int64(10_000), n)
		require.LessOrEqual(t, part, int64(5<<30)/8, n)
	}
}
