package s3storage

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPartsHoldTheLargestObject counts the parts of 5 TiB, of which S3 takes 10,000.
func TestPartsHoldTheLargestObject(t *testing.T) {
	const largest = 5 << 40
	parts := 0
	for sent := int64(0); sent < largest; parts++ {
		size := growingPart(defaultPartSize, sent)
		require.LessOrEqual(t, size, int64(maxPartSize))
		require.GreaterOrEqual(t, size, int64(defaultPartSize))
		sent += size
	}
	require.LessOrEqual(t, parts, 10_000)
	t.Logf("%d parts", parts)
}
